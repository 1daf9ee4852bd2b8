/* notify.h - tells systemd what a service does: the protocol of sd_notify(3), without its library.
 *
 * One datagram of "NAME=value" lines to the Unix socket that NOTIFY_SOCKET names; a leading @ means the abstract
 * namespace. Without NOTIFY_SOCKET, which systemd sets for Type=notify, nothing happens.
 */
#ifndef EDGESKIN_NOTIFY_H
#define EDGESKIN_NOTIFY_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* 1: told; 0: nobody asked, or nobody listens. */
static int notify(const char *state) {
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address;
    size_t length = path ? strlen(path) : 0;
    ssize_t sent;
    int fd;
    if (length < 2 || length >= sizeof address.sun_path || (*path != '/' && *path != '@')) return 0;
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, path, length);
    if (*path == '@') address.sun_path[0] = '\0';
    fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    if (fd < 0) return 0;
    sent = sendto(fd, state, strlen(state), MSG_NOSIGNAL, (const struct sockaddr *)&address,
                  (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length));
    close(fd);
    return sent == (ssize_t)strlen(state);
}

#endif
