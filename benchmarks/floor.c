/*
 * The floor under a cache hit: receive, send, nothing else.
 *
 * One epoll loop answers whatever it reads with the same bytes. It does not look at the request, so no
 * HTTP server that talks through the same system calls can spend less CPU per answer than this one.
 *
 *     floor PORT ANSWER_FILE      PORT 0: a free one; the port is printed on standard output
 *
 * ANSWER_FILE holds the whole answer, head and body. Ends at SIGTERM.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BACKLOG = 1024, EVENTS = 512, HEAD_BYTES = 16384, ANSWER_BYTES = 1 << 16 };

static char answer[ANSWER_BYTES];
static size_t answer_size;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void load_answer(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) fail(path);
    answer_size = fread(answer, 1, sizeof answer, file);
    fclose(file);
}

static int listen_on(const char *port) {
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port)),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, BACKLOG)) fail("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

static void watch(int loop, int fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
}

static void accept_all(int loop, int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(loop, fd);
    }
}

static void answer_one(int fd) {
    static char head[HEAD_BYTES];
    ssize_t size = read(fd, head, sizeof head);
    if (size > 0) {
        send(fd, answer, answer_size, MSG_NOSIGNAL);
    } else if (size == 0 || errno != EAGAIN) {
        close(fd);
    }
}

int main(int argc, char **argv) {
    struct epoll_event ready[EVENTS];
    if (argc != 3) {
        fprintf(stderr, "usage: floor PORT ANSWER_FILE\n");
        return 2;
    }
    load_answer(argv[2]);
    int listener = listen_on(argv[1]), loop = epoll_create1(0);
    watch(loop, listener);
    for (;;) {
        int count = epoll_wait(loop, ready, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (ready[i].data.fd == listener) accept_all(loop, listener);
            else answer_one(ready[i].data.fd);
        }
    }
}
