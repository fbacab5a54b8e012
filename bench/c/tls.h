/* recv, send and close of sockets that may speak TLS, and who they speak it with.

   The session of a socket lies in a table by its descriptor, so that the programs carry nothing about.
   Without -DBENCH_TLS no socket speaks TLS, and OpenSSL is not needed. */
#ifndef BENCH_TLS_H
#define BENCH_TLS_H

#include "net.h"

#ifdef BENCH_TLS

#include <openssl/ssl.h>
#include <poll.h>

enum { SESSIONS = 4096, GATHERED = 256 << 10 };

static SSL *sessions[SESSIONS];
static SSL_CTX *tls_server, *tls_client;

static inline SSL_CTX *tls_context(const SSL_METHOD *method) {
    SSL_CTX *context = SSL_CTX_new(method);
    REQUIRE(context, "SSL_CTX_new");
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_num_tickets(context, 0);
    return context;
}

/* From now on accepted sockets speak TLS (PEM files). */
static inline void tls_serve(const char *cert, const char *key) {
    tls_server = tls_context(TLS_server_method());
    REQUIRE(SSL_CTX_use_certificate_chain_file(tls_server, cert) == 1, cert);
    REQUIRE(SSL_CTX_use_PrivateKey_file(tls_server, key, SSL_FILETYPE_PEM) == 1, key);
}

/* From now on connected sockets speak TLS; whom they speak to is not looked at. */
static inline void tls_call(void) { tls_client = tls_context(TLS_client_method()); }

static inline SSL *tls_session(SSL_CTX *context, int fd) {
    SSL *session = SSL_new(context);
    REQUIRE(session && fd < SESSIONS && SSL_set_fd(session, fd) == 1, "SSL_new");
    return sessions[fd] = session;
}

static inline void tls_accepted(int fd) {
    if (tls_server) SSL_set_accept_state(tls_session(tls_server, fd));
}

/* The handshake is awaited here: it is a small part of what a connection is for. */
static inline void tls_connected(int fd) {
    if (!tls_client) return;
    SSL *session = tls_session(tls_client, fd);
    for (int result; (result = SSL_connect(session)) != 1;) {
        REQUIRE(SSL_get_error(session, result) == SSL_ERROR_WANT_READ, "SSL_connect");
        poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, -1);
    }
}

/* Speak through a buffer, not by the record: a fifth less CPU. `net_flush` sends what is left in it.
   The alternative for reading, SSL_CTX_set_read_ahead(3), moves what it has read about. */
static inline void tls_gather(int fd) {
    SSL *session = sessions[fd];
    if (!session) return;
    BIO *buffer = BIO_new(BIO_f_buffer()), *socket = SSL_get_rbio(session);
    REQUIRE(buffer && BIO_set_buffer_size(buffer, GATHERED) == 1, "BIO_f_buffer");
    BIO_up_ref(socket);
    BIO_push(buffer, socket);
    BIO_up_ref(buffer);
    SSL_set0_rbio(session, buffer);
    SSL_set0_wbio(session, buffer);
}

static inline ssize_t tls_result(SSL *session, int result) {
    if (result > 0) return result;
    int error = SSL_get_error(session, result);
    if (error == SSL_ERROR_ZERO_RETURN) return 0;
    errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : ECONNRESET;
    return -1;
}

static inline int net_speaks_tls(int fd) { return sessions[fd] != NULL; }

/* Whether a record is half read, of which epoll(7) knows nothing. */
static inline int net_pending(int fd) { return sessions[fd] && SSL_pending(sessions[fd]); }

static inline ssize_t net_recv(int fd, void *buffer, size_t size) {
    SSL *session = sessions[fd];
    if (!session) return recv(fd, buffer, size, 0);
    return tls_result(session, SSL_read(session, buffer, (int)size));
}

static inline ssize_t net_send(int fd, const void *data, size_t size, int flags) {
    SSL *session = sessions[fd];
    if (!session) return send(fd, data, size, MSG_NOSIGNAL | flags);
    return tls_result(session, SSL_write(session, data, (int)size));
}

/* Whether nothing is left in the buffer of `tls_gather`; if not, errno says why. */
static inline int net_flush(int fd) {
    if (!sessions[fd] || BIO_flush(SSL_get_wbio(sessions[fd])) == 1) return 1;
    errno = BIO_should_retry(SSL_get_wbio(sessions[fd])) ? EAGAIN : ECONNRESET;
    return 0;
}

static inline void net_close(int fd) {
    SSL_free(sessions[fd]);
    sessions[fd] = NULL;
    close(fd);
}

#else

static inline void tls_serve(const char *cert, const char *key) {
    fprintf(stderr, "%s, %s: built without TLS\n", cert, key);
    exit(2);
}
static inline void tls_call(void) { tls_serve("TLS", "to others"); }
static inline void tls_gather(int fd) { (void)fd; }
static inline void tls_accepted(int fd) { (void)fd; }
static inline void tls_connected(int fd) { (void)fd; }
static inline int net_speaks_tls(int fd) { return (void)fd, 0; }
static inline int net_pending(int fd) { return (void)fd, 0; }
static inline ssize_t net_recv(int fd, void *buffer, size_t size) {
    return recv(fd, buffer, size, 0);
}
static inline ssize_t net_send(int fd, const void *data, size_t size, int flags) {
    return send(fd, data, size, MSG_NOSIGNAL | flags);
}
static inline int net_flush(int fd) { return (void)fd, 1; }
static inline void net_close(int fd) { close(fd); }

#endif
#endif
