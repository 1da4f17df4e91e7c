/* A wall clock that is set: preloaded, it moves CLOCK_REALTIME by the seconds that stand in the file CLOCK_FILE.
 *
 *   echo 315360000 > /dev/shm/clock; CLOCK_FILE=/dev/shm/clock LD_PRELOAD=./clock_shim.so program
 *
 * CLOCK_MONOTONIC and everything that waits stay as they are, as with clock_settime(2). (libfaketime 0.9.10 breaks absolute
 * monotonic sleeps: time.sleep of Python 3.11 gets EINVAL.) The file is read at each call: overwrite it in place.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long shift_s(void) {
    static int file = -2;
    char text[32] = "";
    if (file == -2) {
        const char *path = getenv("CLOCK_FILE");
        file = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;
    }
    if (file < 0 || syscall(SYS_pread64, file, text, sizeof text - 1, 0L) <= 0) return 0;
    return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += shift_s();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec t;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &t)) return -1;
    now->tv_sec = t.tv_sec;
    now->tv_usec = t.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (now) *now = t.tv_sec;
    return t.tv_sec;
}
