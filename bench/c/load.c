/* Load: N connections that push blobs at once, and K more that begin a push and fall silent.

   A blob is a block of 1 MiB repeated, whose last 8 bytes are replaced by the blob's number (big-endian),
   so that a harness can know the digests of many large blobs from hashing one. The digests
   are read from standard input, one `sha256:<hex>` a line, in the order stream 0 push 0, stream 1
   push 0, ..., stream 0 push 1, ...; the n-th is the one of blob `--first` + n. What happened is
   printed as one JSON object. With --patch a push is three requests: POST, PATCH with the body,
   an empty PUT with the digest; with --post it is two: POST, PUT with the body and the digest. */
#define _GNU_SOURCE
#include "tls.h"

#include <getopt.h>
#include <sys/mman.h>
#include <sys/sendfile.h>

enum { BLOCK = 1 << 20, TAIL = 8 };

struct stream {
    int fd, index, push;
    enum { BEGIN, SEND, CLOSE } step;
    char location[1024]; /* of the upload session, with --patch or --post */
    unsigned number; /* of the blob under way, counted from 0 */
    char head[2048], tail[16], response[HEAD_LIMIT + 1];
    size_t head_size, head_sent, tail_size, tail_sent, response_size;
    uint64_t body_sent; /* of the bytes between head and tail */
    int sending;
    double start, last_byte;
};

static int period_file = -1; /* of --sendfile */
static char *period; /* what the body repeats: the block, or the block cut into chunks */
static size_t period_size, write_size = 1 << 20, chunk;
static uint64_t blob_size = 1 << 30, body_size, first;
static int patch, post, port, streams = 1, pushes = 1, silent, silent_bytes, epoll, running, printed;
static const char *path = "/v2/bench/blobs/", *extra = "";
static char (*digests)[80];
static double began;

/* The block: xorshift64 from a fixed seed, written little-endian. */
static void fill_block(uint8_t *block) {
    uint64_t x = 88172645463325252u;
    for (size_t i = 0; i < BLOCK; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        for (int b = 0; b < 8; b++) block[i + (size_t)b] = (uint8_t)(x >> (8 * b));
    }
}

/* Lay out one period of the body as it is on the wire, and how much comes before the tail. */
static void make_period(void) {
    static uint8_t block[BLOCK];
    fill_block(block);
    if (!chunk) {
        period = (char *)block;
        period_size = BLOCK;
        body_size = blob_size - TAIL;
        return;
    }
    size_t span = chunk > BLOCK ? chunk : BLOCK;
    if (span % chunk || span % BLOCK || blob_size % span || chunk < TAIL) {
        fputs("--chunked: divides or is divided by 1 MiB, and the size is a multiple of both\n", stderr);
        exit(2);
    }
    REQUIRE(period = malloc(span + span / chunk * 24), "malloc");
    for (size_t at = 0; at < span; at += chunk) {
        period_size += (size_t)sprintf(period + period_size, "%zx\r\n", chunk);
        for (size_t i = 0; i < chunk; i++) period[period_size++] = (char)block[(at + i) % BLOCK];
        period[period_size++] = '\r';
        period[period_size++] = '\n';
    }
    body_size = blob_size / span * period_size - TAIL - 2;
}

static void report(struct stream *s, int status, const char *error) {
    double t = now();
    printf("%s\n  {\"stream\": %d, \"push\": %d, \"status\": %d, \"start\": %.6f, \"seconds\": %.6f, "
           "\"last_byte_to_response\": %.6f, \"error\": \"%s\"}",
           printed++ ? "," : "", s->index, s->push, status, s->start - began, t - s->start,
           s->last_byte > 0 ? t - s->last_byte : -1.0, error);
}

static size_t format_head(char *text, size_t limit, const char *digest, uint64_t length) {
    char framing[64];
    if (chunk)
        snprintf(framing, sizeof framing, "Transfer-Encoding: chunked");
    else
        snprintf(framing, sizeof framing, "Content-Length: %lu", length);
    return (size_t)snprintf(text, limit,
                            "PUT %s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s%s%s\r\n"
                            "Content-Type: application/octet-stream\r\n\r\n",
                            path, digest, port, extra, *extra ? "\r\n" : "", framing);
}

/* Whether the request of the step has the body. */
static int carries(const struct stream *s) {
    return patch ? s->step == SEND : post ? s->step == CLOSE : 1;
}

static void format_step(struct stream *s) {
    const char *method = s->step == BEGIN ? "POST" : s->step == SEND ? "PATCH" : "PUT";
    const char *query = s->step != CLOSE ? "" : strchr(s->location, '?') ? "&digest=" : "?digest=";
    char framing[64] = "Content-Length: 0";
    if (carries(s) && chunk) strcpy(framing, "Transfer-Encoding: chunked");
    else if (carries(s)) sprintf(framing, "Content-Length: %lu", blob_size);
    s->head_size = (size_t)snprintf(
        s->head, sizeof s->head, "%s %s%s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s\r\n\r\n", method,
        s->step == BEGIN ? "/v2/bench/blobs/uploads/" : s->location, query,
        s->step == CLOSE ? digests[s->number] : "", port, framing);
}

static void begin_step(struct stream *s) {
    if (patch || post)
        format_step(s);
    else
        s->head_size = format_head(s->head, sizeof s->head, digests[s->number], blob_size);
    for (int b = 0; b < TAIL; b++) s->tail[b] = (char)((first + s->number) >> (8 * (7 - b)));
    s->tail_size = TAIL;
    if (chunk) {
        memcpy(s->tail + TAIL, "\r\n0\r\n\r\n", 7);
        s->tail_size += 7;
    }
    s->head_sent = s->tail_sent = s->response_size = 0;
    s->body_sent = 0;
    if (!carries(s)) {
        s->body_sent = body_size;
        s->tail_size = 0;
    }
    s->sending = 1;
    if (s->fd < 0) {
        REQUIRE((s->fd = connect_loopback(port)) >= 0, "connect");
        tls_connected(s->fd);
        watch(epoll, EPOLL_CTL_ADD, s->fd, EPOLLIN | EPOLLOUT, s);
    } else {
        watch(epoll, EPOLL_CTL_MOD, s->fd, EPOLLIN | EPOLLOUT, s);
    }
}

static void begin_push(struct stream *s) {
    s->number = (unsigned)(s->push * streams + s->index);
    s->step = BEGIN;
    s->last_byte = 0;
    s->start = now();
    begin_step(s);
}

/* What follows an answer that is not the last one; 0 where it is. */
static int next_step(struct stream *s, int status) {
    if (!(patch || post) || status != 202 || s->step == CLOSE) return 0;
    const char *location = header(s->response, "\r\nlocation:");
    if (!location || sscanf(location, "%1023s", s->location) != 1) return 0;
    s->step = patch ? s->step + 1 : CLOSE;
    begin_step(s);
    return 1;
}

static void next_push(struct stream *s, int keep) {
    if (!keep) {
        net_close(s->fd);
        s->fd = -1;
    }
    if (++s->push < pushes)
        begin_push(s);
    else
        running--;
}

static void fail(struct stream *s, const char *error) {
    report(s, 0, error);
    next_push(s, 0);
}

/* One send; 1 went on, 0 the socket is full or the connection is broken. */
static int send_some(struct stream *s, const char *data, size_t size, int flags, size_t *sent) {
    ssize_t count = net_send(s->fd, data, size, flags);
    *sent = count > 0 ? (size_t)count : 0;
    return count > 0; /* an error shows again when the response is read */
}

/* The same from the file that holds the period: the kernel copies nothing. */
static void send_file(struct stream *s, size_t at, size_t size, size_t *sent) {
    off_t offset = (off_t)at;
    ssize_t count = sendfile(s->fd, period_file, &offset, size);
    *sent = count > 0 ? (size_t)count : 0;
}

static void make_period_file(void) {
    REQUIRE((period_file = memfd_create("period", 0)) >= 0, "memfd_create");
    for (size_t at = 0; at < period_size;) {
        ssize_t count = write(period_file, period + at, period_size - at);
        REQUIRE(count > 0, "write");
        at += (size_t)count;
    }
}

/* One write per turn, so that all connections are served alike. */
static void send_more(struct stream *s) {
    size_t sent;
    while (s->head_sent < s->head_size) {
        int more = s->tail_size ? MSG_MORE : 0;
        if (!send_some(s, s->head + s->head_sent, s->head_size - s->head_sent, more, &sent)) return;
        s->head_sent += sent;
    }
    if (s->body_sent < body_size) {
        size_t at = (size_t)(s->body_sent % period_size), size = period_size - at;
        if (size > write_size) size = write_size;
        if (size > body_size - s->body_sent) size = (size_t)(body_size - s->body_sent);
        if (period_file >= 0)
            send_file(s, at, size, &sent);
        else
            send_some(s, period + at, size, s->body_sent + size == body_size ? MSG_MORE : 0, &sent);
        s->body_sent += sent;
        if (s->body_sent < body_size) return;
    }
    while (s->tail_sent < s->tail_size) {
        if (!send_some(s, s->tail + s->tail_sent, s->tail_size - s->tail_sent, 0, &sent)) return;
        s->tail_sent += sent;
    }
    s->sending = 0;
    if (s->tail_size) s->last_byte = now();
    watch(epoll, EPOLL_CTL_MOD, s->fd, EPOLLIN, s);
}

static void receive(struct stream *s) {
    size_t room = HEAD_LIMIT - s->response_size;
    ssize_t count = net_recv(s->fd, s->response + s->response_size, room);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) {
        fail(s, count == 0 ? "closed without a response" : strerror(errno));
        return;
    }
    s->response_size += (size_t)count;
    s->response[s->response_size] = 0;
    char *end = strstr(s->response, "\r\n\r\n");
    if (!end) {
        if (s->response_size == HEAD_LIMIT) fail(s, "response head too large");
        return;
    }
    size_t have = s->response_size - (size_t)(end + 4 - s->response);
    int status = atoi(s->response + 9);
    if (have < content_length(s->response) && s->response_size < HEAD_LIMIT) return;
    const char *connection = header(s->response, "\r\nconnection:");
    if (next_step(s, status)) return;
    int early = s->sending;
    report(s, status, early ? "answered before the body was sent" : "");
    next_push(s, !early && !(connection && !strncasecmp(connection, "close", 5)));
}

/* Connections that announce 1 GiB, send a little and then nothing. They are told apart by NULL. */
static int *open_silent(void) {
    int *fds = calloc((size_t)silent + 1, sizeof *fds);
    char text[1024];
    static const char zeros[] = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    size_t size = format_head(text, sizeof text, zeros, 1 << 30);
    for (int i = 0; i < silent; i++) {
        REQUIRE((fds[i] = connect_loopback(port)) >= 0, "connect");
        REQUIRE(send(fds[i], text, size, MSG_NOSIGNAL) == (ssize_t)size, "send");
        if (silent_bytes > 0 && !chunk)
            REQUIRE(send(fds[i], period, (size_t)silent_bytes, MSG_NOSIGNAL) == silent_bytes, "send");
    }
    return fds;
}

/* How many of them the server has neither answered nor closed. */
static int count_open(const int *fds) {
    int open = 0;
    char byte;
    for (int i = 0; i < silent; i++) open += recv(fds[i], &byte, 1, MSG_PEEK) < 0 && errno == EAGAIN;
    return open;
}

static void read_digests(void) {
    REQUIRE(digests = calloc((size_t)(streams * pushes), sizeof *digests), "calloc");
    for (int i = 0; i < streams * pushes; i++) {
        if (scanf("%79s", digests[i]) != 1) {
            fputs("too few digests on standard input\n", stderr);
            exit(2);
        }
    }
}

static void parse_options(int count, char **arguments) {
    static const struct option options[] = {
        {"port", 1, NULL, 'p'},      {"streams", 1, NULL, 'n'},    {"pushes", 1, NULL, 'm'},
        {"size", 1, NULL, 's'},      {"write-size", 1, NULL, 'w'}, {"chunked", 1, NULL, 'c'},
        {"path", 1, NULL, 'u'},      {"first", 1, NULL, 'f'},      {"silent", 1, NULL, 'k'},
        {"silent-bytes", 1, NULL, 'b'}, {"header", 1, NULL, 'h'},
        {"patch", 0, NULL, 'a'},     {"post", 0, NULL, 'o'},     {"tls", 0, NULL, 't'},
        {"sendfile", 0, NULL, 'z'},    {NULL, 0, NULL, 0}};
    for (int option; (option = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        switch (option) {
            case 'p': port = atoi(optarg); break;
            case 'n': streams = atoi(optarg); break;
            case 'm': pushes = atoi(optarg); break;
            case 's': blob_size = strtoull(optarg, NULL, 10); break;
            case 'w': write_size = strtoull(optarg, NULL, 10); break;
            case 'c': chunk = strtoull(optarg, NULL, 10); break;
            case 'u': path = optarg; break;
            case 'f': first = strtoull(optarg, NULL, 10); break;
            case 'k': silent = atoi(optarg); break;
            case 'b': silent_bytes = atoi(optarg); break;
            case 'h': extra = optarg; break;
            case 'a': patch = 1; break;
            case 'z': period_file = 0; break;
            case 'o': post = 1; break;
            case 't': tls_call(); break;
            default: exit(2);
        }
    }
    if (blob_size < TAIL || silent_bytes > BLOCK || streams < 1 || pushes < 1) exit(2);
}

int main(int count, char **arguments) {
    parse_options(count, arguments);
    read_digests();
    make_period();
    if (period_file >= 0) make_period_file();
    REQUIRE((epoll = epoll_create1(0)) >= 0, "epoll_create1");
    int *quiet = open_silent();
    struct stream *all = calloc((size_t)streams, sizeof *all);
    REQUIRE(all, "calloc");
    printf("{\"pushes\": [");
    began = now();
    running = streams;
    for (int i = 0; i < streams; i++) {
        all[i].fd = -1;
        all[i].index = i;
        begin_push(&all[i]);
    }
    while (running) {
        struct epoll_event events[64];
        int ready = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < ready; i++) {
            struct stream *s = events[i].data.ptr;
            if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
                receive(s);
            else if (s->sending)
                send_more(s);
        }
    }
    double seconds = now() - began;
    printf("\n],\n\"seconds\": %.6f, \"silent_still_open\": %d}\n", seconds, count_open(quiet));
    return 0;
}
