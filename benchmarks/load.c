/* The load for tunnels: a backend, and a driver that measures. Written in C so that on a small
 * machine what is measured is the tunnel and not this program. One thread for each connection.
 *
 *   load serve     listen on a free port of loopback, print it, serve until stdin ends
 *   load drive     for each order on stdin print one line: a number, or "error: WHY"
 *
 * Orders, all in one line; VIA is how a destination is reached: "-" directly, "env" through the
 * SOCKS5 proxy that ALL_PROXY names (the address of a run's agent), else a SOCKS5 proxy's port:
 *   bulk VIA HOST PORT STREAMS BYTES          GB/s of all streams together, downwards
 *   connections VIA HOST PORT WORKERS COUNT   connections each second, to the first byte back
 *   requests VIA HOST PORT STREAMS COUNT      64-byte requests and answers each second
 *   latency VIA HOST PORT COUNT               median microseconds of one of them
 *
 * To the backend the first byte says what is wanted: 'S' and 8 bytes (a length, big endian): send
 * that much; 'E': echo.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 256 * 1024, REQUEST = 64, MAX_WORKERS = 256 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int send_all(int fd, const void *data, size_t size) {
    for (const char *at = data; size;) {
        ssize_t sent = send(fd, at, size, MSG_NOSIGNAL);
        if (sent <= 0) return -1;
        at += sent;
        size -= (size_t)sent;
    }
    return 0;
}

static int receive_all(int fd, void *data, size_t size) {
    return recv(fd, data, size, MSG_WAITALL) == (ssize_t)size ? 0 : -1;
}

static void no_delay(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* The backend. */

static void *serve_one(void *argument) {
    int fd = (int)(intptr_t)argument;
    char *buffer = calloc(1, BUFFER);
    char wanted = 0;
    no_delay(fd);
    if (buffer && receive_all(fd, &wanted, 1) == 0) {
        if (wanted == 'S') {
            unsigned char length[8];
            uint64_t left = 0;
            if (receive_all(fd, length, 8) == 0)
                for (int i = 0; i < 8; i++) left = left << 8 | length[i];
            while (left) {
                size_t piece = left < BUFFER ? (size_t)left : BUFFER;
                if (send_all(fd, buffer, piece)) break;
                left -= piece;
            }
        }
        /* Both kinds then echo until the client ends, so that the client is the one who closes. */
        for (ssize_t got; (got = recv(fd, buffer, BUFFER, 0)) > 0;)
            if (send_all(fd, buffer, (size_t)got)) break;
    }
    free(buffer);
    close(fd);
    return NULL;
}

static void *accept_all(void *argument) {
    int listener = (int)(intptr_t)argument;
    for (;;) {
        pthread_t thread;
        int fd = accept(listener, NULL, NULL);
        if (fd < 0) continue;
        if (pthread_create(&thread, NULL, serve_one, (void *)(intptr_t)fd)) close(fd);
        else pthread_detach(thread);
    }
    return NULL;
}

static int serve(void) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    pthread_t thread;
    char ignored;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr *)&at, size) || listen(listener, 1024) ||
        getsockname(listener, (struct sockaddr *)&at, &size) ||
        pthread_create(&thread, NULL, accept_all, (void *)(intptr_t)listener)) {
        perror("load serve");
        return 1;
    }
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    while (read(0, &ignored, 1) > 0) continue;
    return 0;
}

/* The driver. */

struct order {
    char via[32], host[128];
    int port, workers, proxy;
    long count;
    char kind;
    pthread_barrier_t ready;
    long left; /* connections that nobody has taken yet */
    const char *failure;
};

static int proxy_port(const char *via) {
    if (strcmp(via, "-") == 0) return 0;
    if (strcmp(via, "env")) return atoi(via);
    const char *all = getenv("ALL_PROXY"), *colon = all ? strrchr(all, ':') : NULL;
    return colon ? atoi(colon + 1) : -1;
}

static int dial(int port, const char *host) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || inet_pton(AF_INET, host, &to.sin_addr) != 1 ||
        connect(fd, (struct sockaddr *)&to, sizeof to)) {
        if (fd >= 0) close(fd);
        return -1;
    }
    no_delay(fd);
    return fd;
}

/* A stream to the destination; through a proxy by SOCKS5 (RFC 1928) with the name. */
static int open_stream(struct order *order) {
    if (!order->proxy) return dial(order->port, order->host);
    unsigned char request[300] = {5, 1, 0, 3}, answer[300];
    size_t length = strlen(order->host);
    int fd = dial(order->proxy, "127.0.0.1");
    if (fd < 0) return -1;
    request[4] = (unsigned char)length;
    memcpy(request + 5, order->host, length);
    request[5 + length] = (unsigned char)(order->port >> 8);
    request[6 + length] = (unsigned char)order->port;
    if (send_all(fd, "\5\1\0", 3) || receive_all(fd, answer, 2) || answer[1] ||
        send_all(fd, request, 7 + length) || receive_all(fd, answer, 4) || answer[1] ||
        receive_all(fd, answer + 4, answer[3] == 4 ? 18 : 6)) {
        close(fd);
        return -1;
    }
    return fd;
}

static int one_request(int fd) {
    char text[REQUEST] = "request";
    return send_all(fd, text, REQUEST) || receive_all(fd, text, REQUEST);
}

static int download(int fd, long bytes) {
    char *buffer = malloc(BUFFER);
    unsigned char head[9] = {'S'};
    for (int i = 0; i < 8; i++) head[1 + i] = (unsigned char)((uint64_t)bytes >> (56 - 8 * i));
    int failed = !buffer || send_all(fd, head, 9);
    while (!failed && bytes) {
        ssize_t got = recv(fd, buffer, BUFFER, 0);
        if (got <= 0) failed = 1;
        else bytes -= got;
    }
    free(buffer);
    return failed;
}

static void *work(void *argument) {
    struct order *order = argument;
    if (order->kind == 'c') {
        pthread_barrier_wait(&order->ready);
        while (__atomic_fetch_sub(&order->left, 1, __ATOMIC_RELAXED) > 0) {
            char byte = 0;
            int fd = open_stream(order);
            if (fd < 0 || send_all(fd, "Ex", 2) || receive_all(fd, &byte, 1) || byte != 'x')
                order->failure = "a connection was not served";
            if (fd >= 0) close(fd);
        }
        return NULL;
    }
    int fd = open_stream(order);
    if (fd < 0) order->failure = "a stream was not opened";
    else if (order->kind == 'r' && (send_all(fd, "E", 1) || one_request(fd)))
        order->failure = "the first request failed";
    pthread_barrier_wait(&order->ready);
    if (order->failure == NULL) {
        if (order->kind == 'b' && download(fd, order->count)) order->failure = "a stream was cut";
        for (long i = 0; order->kind == 'r' && i < order->count / order->workers; i++)
            if (one_request(fd)) {
                order->failure = "a request failed";
                break;
            }
    }
    if (fd >= 0) close(fd);
    return NULL;
}

static double carry_out(struct order *order) {
    pthread_t threads[MAX_WORKERS];
    order->left = order->count;
    pthread_barrier_init(&order->ready, NULL, (unsigned)order->workers + 1);
    for (int i = 0; i < order->workers; i++)
        if (pthread_create(&threads[i], NULL, work, order)) exit(1);
    pthread_barrier_wait(&order->ready);
    double begun = now();
    for (int i = 0; i < order->workers; i++) pthread_join(threads[i], NULL);
    double seconds = now() - begun, count = (double)order->count;
    pthread_barrier_destroy(&order->ready);
    if (order->kind == 'b') return count * order->workers / seconds / 1e9;
    return count / seconds;
}

static int ascending(const void *a, const void *b) {
    double difference = *(const double *)a - *(const double *)b;
    return (difference > 0) - (difference < 0);
}

static double median_latency(struct order *order) {
    double *taken = malloc(sizeof(double) * (size_t)order->count), median = 0;
    int fd = open_stream(order);
    if (!taken || fd < 0 || send_all(fd, "E", 1) || one_request(fd))
        order->failure = "a stream was not opened";
    for (long i = 0; !order->failure && i < order->count; i++) {
        double begun = now();
        if (one_request(fd)) order->failure = "a request failed";
        taken[i] = (now() - begun) * 1e6;
    }
    if (!order->failure) {
        qsort(taken, (size_t)order->count, sizeof(double), ascending);
        median = taken[order->count / 2];
    }
    if (fd >= 0) close(fd);
    free(taken);
    return median;
}

static int drive(void) {
    char line[512], kind[16];
    while (fgets(line, sizeof line, stdin)) {
        struct order order = {.workers = 1};
        int words = sscanf(line, "%15s %31s %127s %d", kind, order.via, order.host, &order.port);
        int latency = words == 4 && strcmp(kind, "latency") == 0;
        const char *numbers = latency ? "%*s %*s %*s %*s %ld" : "%*s %*s %*s %*s %d %ld";
        int right = latency ? sscanf(line, numbers, &order.count) == 1
                            : sscanf(line, numbers, &order.workers, &order.count) == 2;
        order.kind = kind[0];
        order.proxy = proxy_port(order.via);
        if (words != 4 || !right || !strchr("bcrl", order.kind) || order.count < 1 ||
            order.workers < 1 || order.workers > MAX_WORKERS || order.proxy < 0) {
            printf("error: this order makes no sense\n");
        } else {
            double value = latency ? median_latency(&order) : carry_out(&order);
            if (order.failure) printf("error: %s\n", order.failure);
            else printf("%.9g\n", value);
        }
        fflush(stdout);
    }
    return 0;
}

int main(int count, char **words) {
    signal(SIGPIPE, SIG_IGN);
    if (count == 2 && strcmp(words[1], "serve") == 0) return serve();
    if (count == 2 && strcmp(words[1], "drive") == 0) return drive();
    fprintf(stderr, "usage: load serve|drive\n");
    return 2;
}
