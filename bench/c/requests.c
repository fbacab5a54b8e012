/* Requests: N keep-alive connections, each with one request under way, the same one again and again.
   When the time is over, those that are under way are waited for.

   What came of it is printed as one JSON object; latencies are in milliseconds, from the first byte
   sent to the last one received. */
#define _GNU_SOURCE
#include "net.h"

#include <getopt.h>

enum { STATUSES = 600, ROOM = 1 << 20 };

struct connection {
    int fd;
    double start;
    size_t size, expected; /* of the response; `expected` is 0 until its head is here */
    char response[ROOM + 1];
};

static const char *method = "GET", *path = "/v2/", *extra = "";
static int port, connections = 16, epoll, running;
static double seconds = 1, deadline;
static char request[8192];
static int request_size;
static uint64_t by_status[STATUSES];
static float *latencies;
static size_t done, room;

static void send_request(struct connection *c) {
    c->size = c->expected = 0;
    c->start = now();
    REQUIRE(send(c->fd, request, (size_t)request_size, MSG_NOSIGNAL) == request_size, "send");
}

static void finish(struct connection *c) {
    if (done == room) {
        room = room ? 2 * room : 1 << 16;
        REQUIRE(latencies = realloc(latencies, room * sizeof *latencies), "realloc");
    }
    latencies[done++] = (float)((now() - c->start) * 1e3);
    by_status[atoi(c->response + 9) % STATUSES]++;
    if (now() < deadline)
        send_request(c);
    else
        running--;
}

static void receive(struct connection *c) {
    ssize_t count = recv(c->fd, c->response + c->size, ROOM - c->size, 0);
    if (count < 0 && errno == EAGAIN) return;
    REQUIRE(count > 0, "recv");
    c->size += (size_t)count;
    c->response[c->size] = 0;
    if (!c->expected) {
        char *end = strstr(c->response, "\r\n\r\n");
        if (!end) return;
        if (header(c->response, "\r\ntransfer-encoding:")) {
            fputs("a chunked response\n", stderr);
            exit(1);
        }
        size_t body = strcmp(method, "HEAD") ? content_length(c->response) : 0;
        c->expected = (size_t)(end + 4 - c->response) + body;
    }
    if (c->size >= c->expected) finish(c);
}

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double percentile(double share) { return done ? latencies[(size_t)((double)(done - 1) * share)] : 0; }

static void parse_options(int count, char **arguments) {
    static const struct option options[] = {
        {"port", 1, NULL, 'p'},   {"connections", 1, NULL, 'n'}, {"seconds", 1, NULL, 's'},
        {"method", 1, NULL, 'm'}, {"path", 1, NULL, 'u'},        {"header", 1, NULL, 'h'},
        {NULL, 0, NULL, 0}};
    for (int option; (option = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        switch (option) {
            case 'p': port = atoi(optarg); break;
            case 'n': connections = atoi(optarg); break;
            case 's': seconds = atof(optarg); break;
            case 'm': method = optarg; break;
            case 'u': path = optarg; break;
            case 'h': extra = optarg; break;
            default: exit(2);
        }
    }
    request_size = snprintf(request, sizeof request, "%s %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%s%s\r\n",
                            method, path, port, extra, *extra ? "\r\n" : "");
    if (connections < 1 || request_size >= (int)sizeof request) exit(2);
}

int main(int count, char **arguments) {
    parse_options(count, arguments);
    REQUIRE((epoll = epoll_create1(0)) >= 0, "epoll_create1");
    double began = now();
    deadline = began + seconds;
    running = connections;
    for (int i = 0; i < connections; i++) {
        struct connection *c = malloc(sizeof *c);
        REQUIRE(c, "malloc");
        REQUIRE((c->fd = connect_loopback(port)) >= 0, "connect");
        watch(epoll, EPOLL_CTL_ADD, c->fd, EPOLLIN, c);
        send_request(c);
    }
    while (running) {
        struct epoll_event events[64];
        int ready = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < ready; i++) receive(events[i].data.ptr);
    }
    double took = now() - began;
    qsort(latencies, done, sizeof *latencies, compare);
    printf("{\"per_second\": %.1f, \"p50\": %.3f, \"p99\": %.3f, \"most\": %.3f, \"statuses\": {",
           (double)done / took, percentile(0.5), percentile(0.99), percentile(1));
    const char *comma = "";
    for (int i = 0; i < STATUSES; i++) {
        if (!by_status[i]) continue;
        printf("%s\"%d\": %lu", comma, i, by_status[i]);
        comma = ", ";
    }
    printf("}}\n");
    return 0;
}
