/* An S3 server that costs as little as one can and keeps nothing: bodies are discarded in the kernel
   (recv with MSG_TRUNC), the multipart calls are answered, uploads are counted.

   One thread, epoll, keep-alive, path-style addresses, no authentication. `GET /__stats` answers
   the counts as JSON. A HEAD or GET of an object is 404, or with --get-size an object of that many
   zeros. Only what lies below `_uploads/` is known again, and kept if it is small: the state of
   uploads in several requests. Of any other object that was just stored the next HEAD shows the
   size, since a client may look whether it is there, and then it is forgotten. */
#define _GNU_SOURCE
#include "tls.h"

#include <getopt.h>
#include <time.h>

enum { GULP = 4 << 20, KEPT = 32 << 10 };

#define ETAG "\"0123456789abcdef\""

enum kind { STATS, GET, HEAD, LIST, PUT, PART, CREATE, COMPLETE, ABORT, DELETE, BAD, KINDS };
static const char *const kind_names[KINDS] = {"stats",  "gets",    "heads",     "lists",
                                              "puts",   "parts",   "creates",   "completes",
                                              "aborts", "deletes", "bad_requests"};

struct connection {
    int fd;
    enum kind kind;
    int writing;       /* waits for room to send zeros */
    uint64_t body;     /* bytes of the request body still to be discarded */
    uint64_t zeros;    /* bytes of the response body still to be sent */
    int copies;        /* a PUT without a body: CopyObject */
    unsigned upload;   /* the uploadId of the request, 0 for none */
    char key[1200];    /* the request's path without bucket, for the XML */
    struct object *object; /* what the request's body is kept in, or NULL */
    int object_kept;       /* whether it was */
    char list[400];    /* the prefix that a LIST asks for */
    int of_uploads;    /* it is a list of multipart uploads: there are none to be named */
    uint64_t length;   /* of the request body */
    char source[1200]; /* the key that a CopyObject copies */
    size_t size;       /* of what lies in `head` */
    char head[HEAD_LIMIT + 1];
};

/* One below `_uploads/`; `data` has the first `filled` bytes of `size`. In the order of creation. */
struct object {
    char key[400];
    uint64_t size;
    size_t filled;
    char data[KEPT];
};

/* What was just stored elsewhere, until it is looked at. */
static struct { char key[400]; uint64_t size; } fresh[256];
static unsigned fresh_count;

static struct object *objects[4096];
static unsigned object_count;
static uint64_t counts[KINDS], bytes, get_size = UINT64_MAX, not_live;
static uint8_t *live;   /* by upload id; 1 while neither completed nor aborted */
static uint64_t *sizes; /* by upload id; bytes of its parts */
static unsigned uploads, live_uploads;
static int epoll;
static char gulp[GULP]; /* never written to: MSG_TRUNC copies nothing; the source of the zeros */

static unsigned new_upload(void) {
    uploads++;
    if ((uploads & (uploads - 1)) == 0) {
        REQUIRE(live = realloc(live, 2 * (size_t)uploads), "realloc");
        REQUIRE(sizes = realloc(sizes, 2 * (size_t)uploads * sizeof *sizes), "realloc");
    }
    live[uploads] = 1;
    sizes[uploads] = 0;
    live_uploads++;
    return uploads;
}

static int is_live(unsigned upload) { return upload > 0 && upload <= uploads && live[upload]; }

static void end_upload(unsigned upload) {
    live[upload] = 0;
    live_uploads--;
}

static struct object *find_object(const char *key) {
    for (unsigned i = 0; i < object_count; i++)
        if (!strcmp(objects[i]->key, key)) return objects[i];
    return NULL;
}

static struct object *keep_object(const char *key, uint64_t size) {
    if (!strstr(key, "_uploads/") || strlen(key) >= sizeof objects[0]->key) return NULL;
    struct object *object = find_object(key);
    if (!object) {
        if (object_count == sizeof objects / sizeof *objects) return NULL;
        REQUIRE(object = calloc(1, sizeof *object), "calloc");
        strcpy(object->key, key);
        objects[object_count++] = object;
    }
    object->size = size;
    object->filled = 0;
    return object;
}

static void fill_object(struct object *object, const char *data, size_t size) {
    if (!object || size > KEPT - object->filled) return;
    memcpy(object->data + object->filled, data, size);
    object->filled += size;
}

/* An object was stored at `key`: show it to who looks. */
static void stored(const char *key, uint64_t size) {
    if (keep_object(key, size) || strlen(key) >= sizeof fresh[0].key) return;
    unsigned at = fresh_count++ % (sizeof fresh / sizeof *fresh);
    strcpy(fresh[at].key, key);
    fresh[at].size = size;
}

static int take_fresh(const char *key, uint64_t *size) {
    for (unsigned i = 0; i < sizeof fresh / sizeof *fresh; i++) {
        if (!*key || strcmp(fresh[i].key, key)) continue;
        *size = fresh[i].size;
        *fresh[i].key = 0;
        return 1;
    }
    return 0;
}

static void drop_object(const char *key) {
    for (unsigned i = 0; i < object_count; i++) {
        if (strcmp(objects[i]->key, key)) continue;
        free(objects[i]);
        memmove(objects + i, objects + i + 1, (--object_count - i) * sizeof *objects);
        return;
    }
}

static int has(const char *query, const char *name) {
    size_t length = strlen(name);
    for (const char *at = query; at && *at; at = strchr(at, '&')) {
        if (*at == '&') at++;
        if (!strncmp(at, name, length) && strchr("=& ", at[length])) return 1;
    }
    return 0;
}

static enum kind classify(struct connection *c, const char *method, char *target) {
    char *query = strchr(target, '?');
    if (query) *query++ = 0;
    char *key = strchr(target + 1, '/');
    snprintf(c->key, sizeof c->key, "%s", key ? key + 1 : "");
    const char *id = query ? strstr(query, "uploadId=") : NULL;
    const char *prefix = query ? strstr(query, "prefix=") : NULL;
    *c->list = 0;
    for (size_t n = 0; prefix && n + 1 < sizeof c->list;) {
        const char *at = n ? prefix : (prefix += 7);
        if (!*at || *at == '&') break;
        c->list[n++] = strncasecmp(at, "%2F", 3) ? *at : '/';
        c->list[n] = 0;
        prefix = at + (strncasecmp(at, "%2F", 3) ? 1 : 3);
    }
    c->of_uploads = query && has(query, "uploads");
    c->upload = id ? (unsigned)strtoul(id + 9, NULL, 10) : 0;
    if (!strcmp(target, "/__stats")) return STATS;
    if (!strcmp(method, "PUT")) return has(query, "partNumber") ? PART : PUT;
    if (!strcmp(method, "POST")) {
        return id ? COMPLETE : has(query, "uploads") ? CREATE : has(query, "delete") ? DELETE : BAD;
    }
    if (!strcmp(method, "DELETE")) return id ? ABORT : DELETE;
    if (!strcmp(method, "HEAD")) return HEAD;
    if (!strcmp(method, "GET")) return *c->key ? GET : LIST;
    return BAD;
}

/* Answer with a head and a small body; 0 where the connection is of no more use. */
static int answer(struct connection *c, int status, const char *extra, const char *body) {
    char text[4096];
    int size = snprintf(text, sizeof text,
                        "HTTP/1.1 %d %s\r\nServer: discard\r\nContent-Type: application/xml\r\n"
                        "%sContent-Length: %zu\r\n\r\n%s",
                        status, status < 300 ? "OK" : "No", extra, strlen(body),
                        c->kind == HEAD ? "" : body);
    return net_send(c->fd, text, (size_t)size, 0) == size;
}

static int answer_object(struct connection *c) {
    if (c->kind == HEAD && !*c->key) return answer(c, 200, "", ""); /* the bucket */
    const struct object *object = find_object(c->key);
    struct object shown = {.filled = 0};
    if (!object && c->kind == HEAD && take_fresh(c->key, &shown.size)) object = &shown;
    if (object) {
        char text[512 + KEPT];
        size_t length = (size_t)sprintf(text,
                                        "HTTP/1.1 200 OK\r\nServer: discard\r\nETag: " ETAG "\r\n"
                                        "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
                                        "Content-Length: %lu\r\n\r\n",
                                        object->size);
        if (c->kind == GET) {
            memcpy(text + length, object->data, object->filled);
            length += object->filled;
        }
        return net_send(c->fd, text, length, 0) == (ssize_t)length;
    }
    if (get_size == UINT64_MAX) {
        return c->kind == HEAD ? answer(c, 404, "", "")
                               : answer(c, 404, "", "<Error><Code>NoSuchKey</Code></Error>");
    }
    uint64_t first = 0, last = get_size - 1;
    const char *range = header(c->head, "\r\nrange:");
    if (range) sscanf(range, "bytes=%lu-%lu", &first, &last);
    if (last >= get_size) last = get_size - 1;
    char text[512];
    uint64_t size = get_size ? last - first + 1 : 0;
    int count = snprintf(text, sizeof text,
                         "HTTP/1.1 %s\r\nServer: discard\r\nETag: " ETAG "\r\n"
                         "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: %lu\r\n"
                         "Content-Range: bytes %lu-%lu/%lu\r\n\r\n",
                         range ? "206 Partial Content" : "200 OK", size, first, last, get_size);
    if (c->kind == GET) c->zeros = size;
    return net_send(c->fd, text, (size_t)count, 0) == count;
}

static int answer_stats(struct connection *c) {
    char text[1024];
    int size = snprintf(text, sizeof text, "{\"bytes\": %lu, \"live_uploads\": %u, \"not_live\": %lu",
                        bytes, live_uploads, not_live);
    for (int kind = GET; kind < KINDS; kind++) {
        size += snprintf(text + size, sizeof text - (size_t)size, ", \"%s\": %lu",
                         kind_names[kind], counts[kind]);
    }
    snprintf(text + size, sizeof text - (size_t)size, "}\n");
    return answer(c, 200, "", text);
}

static int answer_multipart(struct connection *c) {
    char body[2600];
    if (c->kind == CREATE) {
        snprintf(body, sizeof body,
                 "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>%s</Key>"
                 "<UploadId>%u</UploadId></InitiateMultipartUploadResult>",
                 c->key, new_upload());
        return answer(c, 200, "", body);
    }
    if (!is_live(c->upload)) {
        not_live++;
        return answer(c, 404, "", "<Error><Code>NoSuchUpload</Code></Error>");
    }
    if (c->kind == PART) {
        sizes[c->upload] += c->length;
        return answer(c, 200, "ETag: " ETAG "\r\n", "");
    }
    end_upload(c->upload);
    if (c->kind == ABORT) return answer(c, 204, "", "");
    stored(c->key, sizes[c->upload]);
    snprintf(body, sizeof body,
             "<CompleteMultipartUploadResult><Bucket>b</Bucket><Key>%s</Key>"
             "<ETag>\"0123456789abcdef-1\"</ETag></CompleteMultipartUploadResult>",
             c->key);
    return answer(c, 200, "", body);
}

static int answer_list(struct connection *c) {
    static const char item[] = "<Contents><Key>%s</Key><LastModified>%s</LastModified>"
                               "<ETag>0</ETag><Size>%lu</Size></Contents>";
    char body[3500];
    if (c->of_uploads) {
        return answer(c, 200, "", "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>"
                                  "</ListMultipartUploadsResult>");
    }
    char now[32]; /* an upload that looks old has expired */
    time_t clock = time(NULL);
    strftime(now, sizeof now, "%Y-%m-%dT%H:%M:%SZ", gmtime(&clock));
    int size = sprintf(body, "<ListBucketResult><IsTruncated>false</IsTruncated>");
    for (unsigned i = 0; *c->list && i < object_count && size < 2800; i++)
        if (!strncmp(objects[i]->key, c->list, strlen(c->list)))
            size += sprintf(body + size, item, objects[i]->key, now, objects[i]->size);
    sprintf(body + size, "</ListBucketResult>");
    return answer(c, 200, "", body);
}

static int answer_put(struct connection *c) {
    if (!c->copies) {
        if (!c->object_kept) stored(c->key, c->length);
        return answer(c, 200, "ETag: " ETAG "\r\n", "");
    }
    const struct object *source = find_object(c->source);
    stored(c->key, source ? source->size : 0);
    return answer(c, 200, "", "<CopyObjectResult><ETag>" ETAG "</ETag></CopyObjectResult>");
}

static int respond(struct connection *c) {
    counts[c->kind]++;
    c->object = NULL;
    switch (c->kind) {
        case STATS: return answer_stats(c);
        case GET:
        case HEAD: return answer_object(c);
        case LIST: return answer_list(c);
        case PUT: return answer_put(c);
        case DELETE: drop_object(c->key); return answer(c, 204, "", "");
        case BAD: return answer(c, 400, "", "<Error><Code>InvalidRequest</Code></Error>");
        default: return answer_multipart(c);
    }
}

/* Begin with the request whose head is whole; 0 where it makes no sense. */
static int begin(struct connection *c, char *end) {
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    char method[16], target[2048];
    if (sscanf(c->head, "%15s %2047s", method, target) != 2) return 0;
    if (header(c->head, "\r\ntransfer-encoding:")) return 0; /* S3 wants a length */
    c->kind = classify(c, method, target);
    c->body = content_length(c->head);
    if (header(c->head, "\r\nexpect:")) {
        if (net_send(c->fd, go_on, sizeof go_on - 1, 0) < 0) return 0;
    }
    size_t used = (size_t)(end + 4 - c->head), here = c->size - used;
    if (here > c->body) return 0; /* nobody pipelines */
    c->length = c->body;
    const char *source = header(c->head, "\r\nx-amz-copy-source:");
    c->copies = source != NULL;
    if (source) { /* bucket/key; our keys need no decoding */
        source += strspn(source, " /");
        const char *slash = strchr(source, '/');
        size_t length = slash ? strcspn(++slash, "\r") : 0;
        snprintf(c->source, sizeof c->source, "%.*s", (int)length, slash ? slash : "");
    }
    c->object = c->kind == PUT && !c->copies ? keep_object(c->key, c->body) : NULL;
    c->object_kept = c->object != NULL;
    fill_object(c->object, end + 4, here);
    bytes += here;
    c->body -= here;
    c->size = 0;
    if (c->kind != HEAD && c->kind != GET) return 1;
    c->head[used] = 0; /* its Range is looked at when it is answered */
    return 1;
}

static int send_zeros(struct connection *c) {
    while (c->zeros) {
        ssize_t count = net_send(c->fd, gulp, c->zeros < GULP ? (size_t)c->zeros : GULP, 0);
        if (count < 0 && errno != EAGAIN) return 0;
        if (count < 0) {
            watch(epoll, EPOLL_CTL_MOD, c->fd, EPOLLOUT, c);
            c->writing = 1;
            return 1;
        }
        c->zeros -= (uint64_t)count;
    }
    if (c->writing) watch(epoll, EPOLL_CTL_MOD, c->fd, EPOLLIN, c);
    c->writing = 0;
    return 1;
}

/* Take bytes and drop them: in the kernel, or once they are decrypted. */
static ssize_t net_discard(int fd, size_t size) {
    static char dump[64 << 10];
    if (!net_speaks_tls(fd)) return recv(fd, gulp, size, MSG_TRUNC);
    return net_recv(fd, dump, size < sizeof dump ? size : sizeof dump);
}

/* Go on with a readable (or writable) connection; 0 where it is at its end. */
static int run(struct connection *c) {
    if (c->zeros) return send_zeros(c);
    if (c->body) {
        int small = c->object && c->object->size <= KEPT;
        static char kept[KEPT];
        ssize_t count = small ? net_recv(c->fd, kept, (size_t)c->body)
                              : net_discard(c->fd, c->body < GULP ? (size_t)c->body : GULP);
        if (small && count > 0) fill_object(c->object, kept, (size_t)count);
        if (count < 0) return errno == EAGAIN;
        if (count == 0) return 0;
        c->body -= (uint64_t)count;
        bytes += (uint64_t)count;
    } else {
        ssize_t count = net_recv(c->fd, c->head + c->size, HEAD_LIMIT - c->size);
        if (count < 0) return errno == EAGAIN;
        if (count == 0) return 0;
        c->size += (size_t)count;
        c->head[c->size] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end) return c->size < HEAD_LIMIT;
        if (!begin(c, end)) return 0;
    }
    if (c->body) return 1;
    return respond(c) && send_zeros(c);
}

int main(int count, char **arguments) {
    static const struct option options[] = {{"get-size", 1, NULL, 'g'},
                                            {"tls-cert", 1, NULL, 'c'},
                                            {"tls-key", 1, NULL, 'k'},
                                            {NULL, 0, NULL, 0}};
    const char *cert = NULL, *key = NULL;
    for (int option; (option = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        switch (option) {
            case 'g': get_size = strtoull(optarg, NULL, 10); break;
            case 'c': cert = optarg; break;
            case 'k': key = optarg; break;
            default: return 2;
        }
    }
    if (cert && key) tls_serve(cert, key);
    REQUIRE(live = calloc(1, 2), "calloc");
    REQUIRE(sizes = calloc(2, sizeof *sizes), "calloc");
    REQUIRE((epoll = epoll_create1(0)) >= 0, "epoll_create1");
    int listener = listen_loopback();
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
    for (;;) {
        struct epoll_event events[64];
        int ready = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) {
                int fd = accept4(listener, NULL, NULL, 0);
                if (fd < 0) continue;
                set_nonblocking(fd);
                REQUIRE(c = calloc(1, sizeof *c), "calloc");
                c->fd = fd;
                tls_accepted(fd);
                watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, c);
                continue;
            }
            int alive;
            while ((alive = run(c)) && net_pending(c->fd)) {}
            if (!alive) {
                net_close(c->fd);
                free(c);
            }
        }
    }
}
