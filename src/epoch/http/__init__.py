"""HTTP/1.1 on uvloop's raw protocol. Knows nothing of registries or stores: it meets the handlers
at two small protocols, `message.Handler` and `message.BodySink`."""
