/* What a pull is compared with: GETs are passed on to a store over a kept connection, and the answer is
   moved to the client by recv(2) and send(2), with one buffer for each connection. With --file every
   GET is answered with that file instead, by sendfile(2). No policy, no retry, no error handling beyond
   giving up the connection. One thread, epoll. */
#define _GNU_SOURCE
#include "net.h"

#include <getopt.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

enum { TURN = 4 << 20 }; /* bytes moved before the others have theirs */

enum state { HEAD, ANSWER, MOVE };

struct connection {
    enum state state;
    int client, store, watched; /* `watched`: the descriptor whose events are asked for */
    char text[HEAD_LIMIT + 1];  /* the request head; later the head of the store's answer */
    size_t text_size;
    char *buffer;
    size_t filled, sent;
    uint64_t left; /* bytes of the answer that have not been received; of the file: not been sent */
    off_t offset;
};

static size_t buffer_size = 1 << 20; /* 2 MiB costs the same, 512 KiB 8 % more, 64 KiB 80 % */
static int store_port, file = -1, epoll;
static uint64_t file_size;

static void ask(struct connection *c, int fd, uint32_t events) {
    if (c->watched != fd) {
        watch(epoll, EPOLL_CTL_MOD, c->watched, 0, c);
        c->watched = fd;
    }
    watch(epoll, EPOLL_CTL_MOD, fd, events, c);
}

/* Each verb goes on as far as the kernel lets it: the bytes moved, 0 wait, -1 give up. */

static ssize_t wait_or_give_up(struct connection *c, ssize_t count, int fd, uint32_t events) {
    if (count == 0 || errno != EAGAIN) return -1;
    ask(c, fd, events);
    return 0;
}

static ssize_t read_head(struct connection *c, int fd) {
    ssize_t count = recv(fd, c->text + c->text_size, HEAD_LIMIT - c->text_size, 0);
    if (count <= 0) return wait_or_give_up(c, count, fd, EPOLLIN);
    c->text_size += (size_t)count;
    c->text[c->text_size] = 0;
    return count;
}

static ssize_t say(int fd, const char *text) {
    ssize_t size = (ssize_t)strlen(text);
    return send(fd, text, (size_t)size, MSG_NOSIGNAL) == size ? size : -1;
}

static ssize_t read_request(struct connection *c) {
    ssize_t count = read_head(c, c->client);
    if (count <= 0 || !strstr(c->text, "\r\n\r\n")) return count;
    c->text_size = 0;
    if (file < 0) {
        c->state = ANSWER;
        return say(c->store, "GET /bench/blob HTTP/1.1\r\nHost: s3\r\n\r\n");
    }
    char head[128];
    sprintf(head, "HTTP/1.1 200 OK\r\nContent-Length: %lu\r\n\r\n", file_size);
    c->state = MOVE;
    c->offset = 0;
    c->left = file_size;
    return say(c->client, head);
}

/* The head is passed on as it is, and so is what came of the body with it. */
static ssize_t read_answer(struct connection *c) {
    ssize_t count = read_head(c, c->store);
    if (count <= 0) return count;
    char *end = strstr(c->text, "\r\n\r\n");
    if (!end) return count;
    c->left = content_length(c->text) - (c->text_size - (size_t)(end + 4 - c->text));
    memcpy(c->buffer, c->text, c->text_size);
    c->filled = c->text_size;
    c->sent = c->text_size = 0;
    c->state = MOVE;
    return count;
}

static ssize_t move(struct connection *c) {
    if (c->sent < c->filled) {
        ssize_t count = send(c->client, c->buffer + c->sent, c->filled - c->sent, MSG_NOSIGNAL);
        if (count <= 0) return wait_or_give_up(c, count, c->client, EPOLLOUT);
        c->sent += (size_t)count;
        return count;
    }
    if (!c->left) {
        c->state = HEAD;
        return 1;
    }
    size_t most = c->left < buffer_size ? (size_t)c->left : buffer_size;
    ssize_t count = recv(c->store, c->buffer, most, 0);
    if (count <= 0) return wait_or_give_up(c, count, c->store, EPOLLIN);
    c->filled = (size_t)count;
    c->sent = 0;
    c->left -= (uint64_t)count;
    return count;
}

static ssize_t send_file(struct connection *c) {
    if (!c->left) {
        c->state = HEAD;
        return 1;
    }
    ssize_t count = sendfile(c->client, file, &c->offset, c->left < TURN ? (size_t)c->left : TURN);
    if (count <= 0) return wait_or_give_up(c, count, c->client, EPOLLOUT);
    c->left -= (uint64_t)count;
    return count;
}

/* 0 where the connection is at its end. */
static int run(struct connection *c) {
    for (ssize_t moved = 0; moved < TURN;) {
        ssize_t count = c->state == HEAD     ? read_request(c)
                        : c->state == ANSWER ? read_answer(c)
                        : file < 0           ? move(c)
                                             : send_file(c);
        if (count <= 0) return count == 0;
        moved += count;
    }
    ask(c, c->client, EPOLLOUT); /* the others' turn */
    return 1;
}

static void accept_one(int listener) {
    struct connection *c;
    int fd = accept4(listener, NULL, NULL, 0);
    if (fd < 0) return;
    set_nonblocking(fd);
    REQUIRE(c = calloc(1, sizeof *c), "calloc");
    REQUIRE(c->buffer = malloc(buffer_size + HEAD_LIMIT), "malloc");
    c->client = c->watched = fd;
    c->store = -1;
    if (file < 0) {
        REQUIRE((c->store = connect_loopback(store_port)) >= 0, "connect to the store");
        watch(epoll, EPOLL_CTL_ADD, c->store, 0, c);
    }
    watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, c);
}

static void drop(struct connection *c) {
    close(c->client);
    if (c->store >= 0) close(c->store);
    free(c->buffer);
    free(c);
}

int main(int count, char **arguments) {
    static const struct option options[] = {
        {"store-port", 1, NULL, 's'}, {"buffer", 1, NULL, 'b'}, {"file", 1, NULL, 'f'}, {NULL, 0, NULL, 0}};
    for (int option; (option = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        switch (option) {
            case 's': store_port = atoi(optarg); break;
            case 'b': buffer_size = strtoull(optarg, NULL, 10); break;
            case 'f': {
                struct stat status;
                REQUIRE((file = open(optarg, O_RDONLY)) >= 0 && fstat(file, &status) == 0, optarg);
                file_size = (uint64_t)status.st_size;
                break;
            }
            default: return 2;
        }
    }
    REQUIRE((epoll = epoll_create1(0)) >= 0, "epoll_create1");
    int listener = listen_loopback();
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
    for (;;) {
        struct epoll_event events[1]; /* one: a connection that is dropped has no second event */
        int ready = epoll_wait(epoll, events, 1, -1);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c)
                accept_one(listener);
            else if (!run(c))
                drop(c);
        }
    }
}
