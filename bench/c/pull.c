/* N connections that each GET one path at once and throw away what comes, in the kernel (recv with
   MSG_TRUNC): the client costs next to nothing. What happened is printed as one JSON object. */
#define _GNU_SOURCE
#include "net.h"

#include <getopt.h>

enum { GULP = 4 << 20 };

struct stream {
    int fd, status, done;
    uint64_t length, left;
    size_t head_size;
    char head[HEAD_LIMIT + 1];
};

static int epoll, running;

static void end(struct stream *s, double began, const char *error) {
    static int printed;
    printf("%s\n  {\"status\": %d, \"bytes\": %lu, \"seconds\": %.6f, \"error\": \"%s\"}",
           printed++ ? "," : "", s->status, s->length - s->left, now() - began, error);
    close(s->fd);
    s->done = 1;
    running--;
}

/* Read the response; what is wrong, "" at its end, NULL where there is more to come. */
static const char *receive(struct stream *s) {
    static char gulp[GULP]; /* never written to */
    if (!s->status) {
        ssize_t count = recv(s->fd, s->head + s->head_size, HEAD_LIMIT - s->head_size, 0);
        if (count < 0 && errno == EAGAIN) return NULL;
        if (count <= 0) return "no response";
        s->head_size += (size_t)count;
        s->head[s->head_size] = 0;
        char *behind = strstr(s->head, "\r\n\r\n");
        if (!behind) return s->head_size < HEAD_LIMIT ? NULL : "response head too large";
        s->status = atoi(s->head + 9);
        s->length = content_length(s->head);
        s->left = s->length - (s->head_size - (size_t)(behind + 4 - s->head));
        return s->left ? NULL : "";
    }
    ssize_t count = recv(s->fd, gulp, s->left < GULP ? (size_t)s->left : GULP, MSG_TRUNC);
    if (count < 0 && errno == EAGAIN) return NULL;
    if (count <= 0) return "cut";
    s->left -= (uint64_t)count;
    return s->left ? NULL : "";
}

int main(int count, char **arguments) {
    static const struct option options[] = {
        {"port", 1, NULL, 'p'}, {"streams", 1, NULL, 'n'}, {"path", 1, NULL, 'u'}, {NULL, 0, NULL, 0}};
    int port = 0, streams = 1;
    const char *path = "/";
    for (int option; (option = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        switch (option) {
            case 'p': port = atoi(optarg); break;
            case 'n': streams = atoi(optarg); break;
            case 'u': path = optarg; break;
            default: return 2;
        }
    }
    char text[1024];
    int size = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", path);
    struct stream *all = calloc((size_t)streams, sizeof *all);
    REQUIRE(all, "calloc");
    REQUIRE((epoll = epoll_create1(0)) >= 0, "epoll_create1");
    printf("{\"pulls\": [");
    double began = now();
    running = streams;
    for (int i = 0; i < streams; i++) {
        REQUIRE((all[i].fd = connect_loopback(port)) >= 0, "connect");
        REQUIRE(send(all[i].fd, text, (size_t)size, MSG_NOSIGNAL) == size, "send");
        watch(epoll, EPOLL_CTL_ADD, all[i].fd, EPOLLIN, &all[i]);
    }
    while (running) {
        struct epoll_event events[64];
        int ready = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < ready; i++) {
            struct stream *s = events[i].data.ptr;
            const char *error = s->done ? NULL : receive(s);
            if (error) end(s, began, error);
        }
    }
    printf("\n],\n\"seconds\": %.6f}\n", now() - began);
    return 0;
}
