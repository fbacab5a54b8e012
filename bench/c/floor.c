/* The floor: the least that a push can cost in one process and one core. A body comes in by
   recv(2), is hashed where it lies, and goes out by send(2) as the PUTs of a multipart upload;
   no policy, no retry, no error handling beyond giving up the connection.

   One thread, epoll, any number of connections; each has one part buffer and one connection to the
   store, and reads on only when its part has been answered. With --lockstep what all connections
   have received in a turn is hashed side by side. */
#define _GNU_SOURCE
#include "tls.h"

#include <getopt.h>
#include <sys/mman.h>

#include "sha256_lanes.h"

enum { RECEIVES_PER_TURN = 16, EVENTS = 64 };

enum state { HEAD, FILL, REST, SEND, ANSWER, DROPPED };

struct connection {
    enum state state;
    int client, store;
    int watched;      /* the descriptor whose events are asked for */
    uint8_t *part;    /* lazily mapped, kept for the next connection in this slot */
    size_t part_size; /* of this part: what is left of the body, at most the option's value */
    size_t filled, sent, head_sent, head_size, text_size;
    uint64_t left; /* bytes of the body that belong to later parts */
    unsigned number;
    epoch_sha256 digest;
    char expected[65];
    char text[HEAD_LIMIT + 1]; /* the request head; later the store's answers */
    char part_head[128];
    struct connection *next_free;
};

static size_t part_limit = 16 << 20, receive_size = 256 << 10;
static int slices, huge = 1, hashing = 1, lockstep, store_port, epoll;
static epoch_sha256_lane lanes[EVENTS];
static struct connection *resting[EVENTS];
static size_t rest_count;
static struct connection *free_connections;

static void ask(struct connection *c, int fd, uint32_t events) {
    if (c->watched != fd) {
        watch(epoll, EPOLL_CTL_MOD, c->watched, 0, c);
        c->watched = fd;
    }
    watch(epoll, EPOLL_CTL_MOD, fd, events, c);
}

static void drop(struct connection *c) {
    net_close(c->client);
    net_close(c->store);
    c->state = DROPPED; /* a second event of the same turn finds it so */
    c->next_free = free_connections;
    free_connections = c;
}

static void begin_part(struct connection *c) {
    c->part_size = c->left < part_limit ? (size_t)c->left : part_limit;
    c->left -= c->part_size;
    c->filled = c->sent = c->head_sent = c->text_size = 0;
    c->head_size = (size_t)snprintf(c->part_head, sizeof c->part_head,
                                    "PUT /floor/part-%u HTTP/1.1\r\nHost: s3\r\n"
                                    "Content-Length: %zu\r\n\r\n",
                                    ++c->number, c->part_size);
    c->state = FILL;
}

static void take(struct connection *c, size_t count) {
    if (hashing) epoch_sha256_update(&c->digest, c->part + c->filled, count);
    c->filled += count;
}

/* Parse the head once it is whole. What came behind it is the start of the body. */
static int parse(struct connection *c) {
    c->text[c->text_size] = 0;
    char *end = strstr(c->text, "\r\n\r\n");
    if (!end) return c->text_size < HEAD_LIMIT;
    char *colon = strstr(c->text, "sha256:");
    if (strncmp(c->text, "PUT ", 4) || !colon || colon > end) return 0;
    memcpy(c->expected, colon + 7, 64);
    c->left = content_length(c->text);
    epoch_sha256_init(&c->digest);
    size_t body = c->text_size - (size_t)(end + 4 - c->text);
    c->number = 0;
    begin_part(c);
    if (!c->part) {
        c->part = mmap(NULL, part_limit + (2 << 20), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        REQUIRE(c->part != MAP_FAILED, "mmap");
        c->part += -(uintptr_t)c->part & ((2 << 20) - 1);
        madvise(c->part, part_limit, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    }
    if (body > c->part_size) return 0;
    memcpy(c->part, end + 4, body);
    take(c, body);
    return 1;
}

static int reply(struct connection *c) {
    static const char created[] = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
    static const char refused[] = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    uint8_t digest[32];
    char text[65];
    epoch_sha256_final(&c->digest, digest);
    for (int i = 0; i < 32; i++) snprintf(text + 2 * i, 3, "%02x", digest[i]);
    const char *answer = !hashing || !memcmp(text, c->expected, 64) ? created : refused;
    c->state = HEAD;
    c->text_size = 0;
    return net_send(c->client, answer, strlen(answer), 0) == (ssize_t)strlen(answer) &&
           net_flush(c->client);
}

/* Each verb goes on with its state as far as the kernel lets it: 1 done, 0 wait, -1 give up. */

static int give_up_or_wait(struct connection *c, ssize_t count, int fd, uint32_t events) {
    if (count == 0 || (errno != EAGAIN && errno != EINTR)) return -1;
    ask(c, fd, events);
    return 0;
}

static int read_head(struct connection *c) {
    ssize_t count = net_recv(c->client, c->text + c->text_size, HEAD_LIMIT - c->text_size);
    if (count <= 0) return give_up_or_wait(c, count, c->client, EPOLLIN);
    c->text_size += (size_t)count;
    return parse(c) ? 1 : -1;
}

/* Let what was received wait until all connections have had their turn. */
static void rest(struct connection *c, size_t count) {
    lanes[rest_count] = (epoch_sha256_lane){&c->digest, c->part + c->filled, count};
    resting[rest_count++] = c;
    c->filled += count;
    c->state = REST;
}

static int fill(struct connection *c) {
    size_t room = c->part_size - c->filled;
    if (room) {
        ssize_t count =
            net_recv(c->client, c->part + c->filled, room < receive_size ? room : receive_size);
        if (count <= 0) return give_up_or_wait(c, count, c->client, EPOLLIN);
        if (lockstep) {
            rest(c, (size_t)count);
            return 0;
        }
        take(c, (size_t)count);
    }
    if (slices || c->filled == c->part_size) c->state = SEND;
    return 1;
}

static int send_part(struct connection *c) {
    while (c->head_sent < c->head_size) {
        ssize_t count = net_send(c->store, c->part_head + c->head_sent, c->head_size - c->head_sent,
                                 MSG_MORE);
        if (count < 0) return give_up_or_wait(c, count, c->store, EPOLLOUT);
        c->head_sent += (size_t)count;
    }
    while (c->sent < c->filled) {
        ssize_t count = net_send(c->store, c->part + c->sent, c->filled - c->sent, 0);
        if (count < 0) return give_up_or_wait(c, count, c->store, EPOLLOUT);
        c->sent += (size_t)count;
    }
    if (c->sent == c->part_size && !net_flush(c->store))
        return give_up_or_wait(c, -1, c->store, EPOLLOUT);
    c->state = c->sent == c->part_size ? ANSWER : FILL;
    return 1;
}

static int read_answer(struct connection *c) {
    ssize_t count = net_recv(c->store, c->text + c->text_size, HEAD_LIMIT - c->text_size);
    if (count <= 0) return give_up_or_wait(c, count, c->store, EPOLLIN);
    c->text_size += (size_t)count;
    c->text[c->text_size] = 0;
    if (!strstr(c->text, "\r\n\r\n")) return 1;
    if (strncmp(c->text, "HTTP/1.1 200", 12)) return -1;
    if (c->left == 0) return reply(c) ? 1 : -1;
    begin_part(c);
    return 1;
}

static void run(struct connection *c) {
    if (c->state == DROPPED || c->state == REST) return;
    for (int receives = 0; receives < RECEIVES_PER_TURN; receives += c->state == FILL) {
        int result = c->state == HEAD   ? read_head(c)
                     : c->state == FILL ? fill(c)
                     : c->state == SEND ? send_part(c)
                                        : read_answer(c);
        if (result < 0) drop(c);
        if (result <= 0) return;
    }
    /* The others' turn. What TLS has already taken from the socket is gone on with at once. */
    ask(c, c->client, EPOLLIN | (net_speaks_tls(c->client) ? EPOLLOUT : 0));
}

/* Hash what waits, side by side, and go on; some may come to rest again. */
static void end_turn(void) {
    struct connection *rested[EVENTS];
    size_t count = rest_count;
    memcpy(rested, resting, sizeof rested);
    epoch_sha256_update_lanes(lanes, count);
    rest_count = 0;
    for (size_t i = 0; i < count; i++) {
        struct connection *c = rested[i];
        c->state = slices || c->filled == c->part_size ? SEND : FILL;
        if (c->state == SEND)
            run(c);
        else if (c->watched != c->client)
            ask(c, c->client, EPOLLIN);
    }
}

static void accept_one(int listener) {
    int fd = accept4(listener, NULL, NULL, 0);
    if (fd < 0) return;
    set_nonblocking(fd);
    struct connection *c = free_connections;
    if (c)
        free_connections = c->next_free;
    else
        REQUIRE(c = calloc(1, sizeof *c), "calloc");
    c->state = HEAD;
    c->text_size = 0;
    c->client = c->watched = fd;
    tls_accepted(fd);
    tls_gather(fd);
    REQUIRE((c->store = connect_loopback(store_port)) >= 0, "connect to the store");
    tls_connected(c->store);
    tls_gather(c->store);
    watch(epoll, EPOLL_CTL_ADD, c->store, 0, c);
    watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, c);
}

int main(int count, char **arguments) {
    static const struct option options[] = {{"store-port", 1, NULL, 's'},
                                            {"part-size", 1, NULL, 'p'},
                                            {"recv-size", 1, NULL, 'r'},
                                            {"slices", 0, NULL, 'l'},
                                            {"no-huge", 0, NULL, 'n'},
                                            {"no-hash", 0, NULL, 'x'},
                                            {"lockstep", 0, NULL, 'y'},
                                            {"tls-cert", 1, NULL, 'c'},
                                            {"tls-key", 1, NULL, 'k'},
                                            {"store-tls", 0, NULL, 't'},
                                            {NULL, 0, NULL, 0}};
    const char *cert = NULL, *key = NULL;
    for (int option; (option = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        switch (option) {
            case 's': store_port = atoi(optarg); break;
            case 'p': part_limit = strtoull(optarg, NULL, 10); break;
            case 'r': receive_size = strtoull(optarg, NULL, 10); break;
            case 'l': slices = 1; break;
            case 'n': huge = 0; break;
            case 'x': hashing = 0; break;
            case 'y': lockstep = 1; break;
            case 'c': cert = optarg; break;
            case 'k': key = optarg; break;
            case 't': tls_call(); break;
            default: return 2;
        }
    }
    if (cert && key) tls_serve(cert, key);
    epoch_sha256_setup();
    REQUIRE((epoll = epoll_create1(0)) >= 0, "epoll_create1");
    int listener = listen_loopback();
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
    for (;;) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(epoll, events, EVENTS, rest_count ? 0 : -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.ptr)
                run(events[i].data.ptr);
            else
                accept_one(listener);
        }
        end_turn();
    }
}
