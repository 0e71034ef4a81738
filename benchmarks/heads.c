/*
 * A load generator for answers without a body (to HEAD; 304), for which wrk may wait in vain.
 *
 *     heads PORT CONNECTIONS SECONDS REQUEST_FILE
 *
 * Closed loop on one thread: every connection sends the request, reads to the blank line, sends again.
 * Prints the same line of JSON as the wrk scripts. Latencies are counted in microseconds up to 1 s.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 512, ANSWER_BYTES = 65536, REQUEST_BYTES = 16384, LONGEST_US = 1000000 };

typedef struct {
    int fd, filled;
    long sent_us;
    char answer[ANSWER_BYTES];
} client;

static unsigned histogram[LONGEST_US + 1];
static char request[REQUEST_BYTES];
static size_t request_size;
static long requests, failures, received;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static long now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000L + now.tv_nsec / 1000;
}

static void ask(client *client) {
    client->filled = 0;
    client->sent_us = now_us();
    if (send(client->fd, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size) fail("send");
}

static void open_client(client *client, int port, int loop) {
    int on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    client->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(client->fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    epoll_ctl(loop, EPOLL_CTL_ADD, client->fd, &event);
    ask(client);
}

static void take(client *client) {
    ssize_t size = read(client->fd, client->answer + client->filled, ANSWER_BYTES - client->filled);
    if (size <= 0) {
        fprintf(stderr, "the server closed a connection\n");
        exit(1);
    }
    received += size;
    client->filled += size;
    if (client->filled < 12 || memcmp(client->answer + client->filled - 4, "\r\n\r\n", 4)) return;
    long taken = now_us() - client->sent_us;
    histogram[taken < LONGEST_US ? taken : LONGEST_US]++;
    requests++;
    failures += client->answer[9] >= '4';
    ask(client);
}

static long percentile(double share) {
    long seen = 0;
    for (long us = 0; us <= LONGEST_US; us++) {
        seen += histogram[us];
        if (seen >= share * requests) return us;
    }
    return LONGEST_US;
}

int main(int argc, char **argv) {
    struct epoll_event ready[EVENTS];
    if (argc != 5) {
        fprintf(stderr, "usage: heads PORT CONNECTIONS SECONDS REQUEST_FILE\n");
        return 2;
    }
    FILE *file = fopen(argv[4], "rb");
    if (!file) fail(argv[4]);
    request_size = fread(request, 1, sizeof request, file);
    fclose(file);
    int count = atoi(argv[2]), loop = epoll_create1(0);
    client *clients = calloc(count, sizeof *clients);
    long start = now_us(), end = start + atol(argv[3]) * 1000000L, now;
    for (int i = 0; i < count; i++) open_client(&clients[i], atoi(argv[1]), loop);
    while ((now = now_us()) < end) {
        int found = epoll_wait(loop, ready, EVENTS, 100);
        for (int i = 0; i < found; i++) take(ready[i].data.ptr);
    }
    printf("{\"requests\": %ld, \"duration_us\": %ld, \"bytes\": %ld, \"p50_us\": %ld, \"p90_us\": %ld, \"p99_us\": %ld, "
           "\"max_us\": %ld, \"errors\": {\"connect\": 0, \"read\": 0, \"write\": 0, \"status\": %ld, \"timeout\": 0}}\n",
           requests, now - start, received, percentile(0.5), percentile(0.9), percentile(0.99), percentile(1.0), failures);
    return 0;
}
