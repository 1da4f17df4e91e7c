/* Lets a program that is started with this library preloaded open a GPIO chip that another process plays.
 *
 *   GPIO_SHIM=/tmp/chip.sock LD_PRELOAD=./gpio_shim.so program
 *
 * /dev/gpiochip0 is a Unix stream socket to the player (tests/sim/gpio.py): it goes on after the program has died, as a
 * kernel does, and sees every file being closed, however the program ended. A line request is two connections: one that
 * carries edge events and is what the program polls and reads, one for its ioctls. Poll and select are the kernel's own.
 *
 *   hello      u8 kind (C chip, E events, R requests), u32 which request; the answer to C is i32 errno
 *   ioctl      u32 number, u32 size, the argument; the answer is i32 errno, then the argument as it is now
 *
 * A player that hangs up is a chip that was pulled out: ENODEV.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/gpio.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

static const char CHIP[] = "/dev/gpiochip0", SUBSYSTEM[] = "/sys/dev/char/254:0/subsystem", BUS[] = "/sys/bus/gpio";
enum { FILES = 4096, MAJOR = 254 };

static struct { char kind; int requests; } files[FILES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int refuse(int error) { errno = error; return -1; }
static int is_ours(int fd) { return fd >= 0 && fd < FILES && files[fd].kind; }
static int is_chip(const char *path) { return path && !strcmp(path, CHIP); }

static int send_all(int fd, const void *from, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t sent = send(fd, (const char *)from + done, size - done, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return refuse(ENODEV);
        done += sent;
    }
    return 0;
}

static int take_all(int fd, void *to, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t taken = recv(fd, (char *)to + done, size - done, 0);
        if (taken < 0 && errno == EINTR) continue;
        if (taken <= 0) return refuse(ENODEV);
        done += taken;
    }
    return 0;
}

static int dial(char kind, unsigned which) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    const char *path = getenv("GPIO_SHIM");
    char hello[5] = {kind};
    memcpy(hello + 1, &which, 4);
    if (!path || strlen(path) >= sizeof at.sun_path) return refuse(ENOENT);
    strcpy(at.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    if (fd >= FILES || connect(fd, (struct sockaddr *)&at, sizeof at) || send_all(fd, hello, sizeof hello)) {
        syscall(SYS_close, fd);
        return refuse(ENOENT);
    }
    return fd;
}

/* ---- what the program calls ---------------------------------------------------------------------------------- */

static int open_chip(void) {
    int error, fd = dial('C', 0);
    if (fd < 0) return -1;
    if (take_all(fd, &error, 4)) error = ENODEV;
    if (error) {
        syscall(SYS_close, fd);
        return refuse(error);
    }
    files[fd].kind = 'C';
    files[fd].requests = fd;
    return fd;
}

#define OPEN(folder) \
    va_list args; va_start(args, flags); mode_t mode = va_arg(args, mode_t); va_end(args); \
    return is_chip(path) ? open_chip() : (int)syscall(SYS_openat, folder, path, flags, mode);

int open(const char *path, int flags, ...) { OPEN(AT_FDCWD) }
int open64(const char *path, int flags, ...) { OPEN(AT_FDCWD) }
int openat(int folder, const char *path, int flags, ...) { OPEN(folder) }
int openat64(int folder, const char *path, int flags, ...) { OPEN(folder) }

static int fill(struct stat *found) {
    const char *path = getenv("GPIO_SHIM");
    if (!path || access(path, F_OK)) return refuse(ENOENT);
    memset(found, 0, sizeof *found);
    found->st_mode = S_IFCHR | 0660;
    found->st_rdev = makedev(MAJOR, 0);
    return 0;
}

#define STAT(flags) return is_chip(path) ? fill(found) : (int)syscall(SYS_newfstatat, AT_FDCWD, path, found, flags);

int stat(const char *path, struct stat *found) { STAT(0) }
int lstat(const char *path, struct stat *found) { STAT(AT_SYMLINK_NOFOLLOW) }
int stat64(const char *path, struct stat64 *found) { return stat(path, (struct stat *)found); }
int lstat64(const char *path, struct stat64 *found) { return lstat(path, (struct stat *)found); }
int __xstat(int version, const char *path, struct stat *found) { (void)version; STAT(0) }
int __lxstat(int version, const char *path, struct stat *found) { (void)version; STAT(AT_SYMLINK_NOFOLLOW) }

char *realpath(const char *path, char *to) {
    if (path && !strcmp(path, SUBSYSTEM)) return to ? strcpy(to, BUS) : strdup(BUS);
    if (is_chip(path)) return to ? strcpy(to, CHIP) : strdup(CHIP);
    return canonicalize_file_name(path); /* nobody in these tests hands in a buffer for a real path */
}

static int request_lines(struct gpio_v2_line_request *request) {
    unsigned which = request->fd;
    int events = dial('E', which), requests = events < 0 ? -1 : dial('R', which);
    if (requests < 0) {
        if (events >= 0) syscall(SYS_close, events);
        return refuse(ENODEV);
    }
    files[events].kind = 'E';
    files[events].requests = requests;
    request->fd = events;
    return 0;
}

static int ask(int fd, unsigned number, void *argument) {
    unsigned size = _IOC_SIZE(number);
    int error, requests = files[fd].requests;
    if (send_all(requests, &number, 4) || send_all(requests, &size, 4) || send_all(requests, argument, size)) return -1;
    if (take_all(requests, &error, 4) || take_all(requests, argument, size)) return -1;
    if (error) return refuse(error);
    return number == GPIO_V2_GET_LINE_IOCTL ? request_lines(argument) : 0;
}

int ioctl(int fd, unsigned long number, ...) {
    va_list args;
    va_start(args, number);
    void *argument = va_arg(args, void *);
    va_end(args);
    if (!is_ours(fd)) return (int)syscall(SYS_ioctl, fd, number, argument);
    pthread_mutex_lock(&lock);
    int result = ask(fd, (unsigned)number, argument);
    pthread_mutex_unlock(&lock);
    return result;
}

ssize_t read(int fd, void *to, size_t size) {
    ssize_t taken = syscall(SYS_read, fd, to, size);
    return is_ours(fd) && (taken == 0 || (taken < 0 && errno == ECONNRESET)) ? refuse(ENODEV) : taken;
}

int close(int fd) {
    if (is_ours(fd)) {
        if (files[fd].kind == 'E') syscall(SYS_close, files[fd].requests);
        files[fd].kind = 0;
    }
    return (int)syscall(SYS_close, fd);
}
