"""Several server processes over one port, and the parent that starts and watches them."""
