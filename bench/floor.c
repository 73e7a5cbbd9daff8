/* The floor: what one proxied request costs when nothing is done to it.
 *
 * A single-threaded epoll forwarder. Each accepted connection gets its own
 * connection to the upstream and bytes are moved both ways without being
 * looked at: two recv and two send per request, plus a share of epoll_wait.
 * Whatever a proxy costs above this is the proxy's own doing.
 *
 * usage: floor LISTEN_PORT UPSTREAM_PORT     (both on 127.0.0.1)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS_MAX = 256, CHUNK_BYTES = 64 * 1024, CONNECTIONS_MAX = 65536 };

/* One side of a pair. `held` bytes could not be sent to this side yet. */
struct side {
    int fd;
    struct side *peer;
    char *held;
    size_t held_bytes;
};

static struct side *sides[CONNECTIONS_MAX];
static char chunk[CHUNK_BYTES];
static int epoll_fd;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static void set_nodelay(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* Edge triggered: a short read means drained, so no read ends in EAGAIN. */
static void watch(int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
    event.data.fd = fd;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
        die("epoll_ctl");
}

static struct side *add_side(int fd)
{
    if (fd >= CONNECTIONS_MAX)
        die("too many connections");
    struct side *side = calloc(1, sizeof *side);
    if (side == NULL)
        die("calloc");
    side->fd = fd;
    sides[fd] = side;
    return side;
}

static void drop_side(struct side *side)
{
    sides[side->fd] = NULL;
    close(side->fd);
    free(side->held);
    free(side);
}

static void drop_pair(struct side *side)
{
    drop_side(side->peer);
    drop_side(side);
}

static void accept_all(int listener, int upstream_port)
{
    for (;;) {
        int client = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (client < 0)
            return;
        /* A blocking connect: on loopback it is done when it returns. */
        struct sockaddr_in address = loopback(upstream_port);
        int upstream = socket(AF_INET, SOCK_STREAM, 0);
        if (upstream < 0 || connect(upstream, (void *)&address, sizeof address) != 0) {
            close(client);
            if (upstream >= 0)
                close(upstream);
            continue;
        }
        fcntl(upstream, F_SETFL, O_NONBLOCK);
        set_nodelay(client);
        set_nodelay(upstream);
        struct side *one = add_side(client), *other = add_side(upstream);
        one->peer = other;
        other->peer = one;
        watch(client);
        watch(upstream);
    }
}

/* Sends bytes to `side`, keeping what does not fit. Returns 0 when the pair is dead. */
static int send_or_hold(struct side *side, const char *bytes, size_t count)
{
    while (count > 0) {
        ssize_t sent = send(side->fd, bytes, count, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            side->held = malloc(count);
            if (side->held == NULL)
                die("malloc");
            memcpy(side->held, bytes, count);
            side->held_bytes = count;
            return 1;
        }
        if (sent < 0)
            return 0;
        bytes += sent;
        count -= (size_t)sent;
    }
    return 1;
}

static int flush_held(struct side *side)
{
    char *held = side->held;
    size_t count = side->held_bytes;
    side->held = NULL;
    side->held_bytes = 0;
    int alive = send_or_hold(side, held, count);
    free(held);
    return alive;
}

/* Moves what `side` has to its peer. Returns 0 when the pair is dead. */
static int forward(struct side *side)
{
    while (side->peer->held == NULL) {
        ssize_t got = recv(side->fd, chunk, sizeof chunk, 0);
        if (got == 0 || (got < 0 && errno != EAGAIN))
            return 0;
        if (got < 0)
            return 1;
        if (!send_or_hold(side->peer, chunk, (size_t)got))
            return 0;
        if (got < (ssize_t)sizeof chunk)
            return 1;
    }
    return 1;
}

static void serve(const struct epoll_event *event)
{
    struct side *side = sides[event->data.fd];
    if (side == NULL)
        return; /* closed earlier in this turn */
    int alive = 1;
    if ((event->events & EPOLLOUT) && side->held != NULL)
        alive = flush_held(side) && forward(side->peer);
    if (alive && (event->events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
        alive = forward(side);
    if (alive && (event->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) && side->peer->held == NULL)
        alive = forward(side); /* the end of the stream, after its last bytes */
    if (!alive)
        drop_pair(side);
}

static int listen_on(int port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int on = 1;
    struct sockaddr_in address = loopback(port);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, (void *)&address, sizeof address) != 0 || listen(fd, 4096) != 0)
        die("listen");
    return fd;
}

int main(int count, char **arguments)
{
    if (count != 3) {
        fprintf(stderr, "usage: floor LISTEN_PORT UPSTREAM_PORT\n");
        return 2;
    }
    int listener = listen_on(atoi(arguments[1]));
    int upstream_port = atoi(arguments[2]);
    epoll_fd = epoll_create1(0);
    watch(listener);
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        int ready = epoll_wait(epoll_fd, events, EVENTS_MAX, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd == listener)
                accept_all(listener, upstream_port);
            else
                serve(&events[i]);
        }
    }
}
