/* Plays /dev/videoN for a program that is started with this library preloaded: what a kernel driver would do, and
 * what a bad one does.
 *
 *   V4L2_SHIM=cam0.conf:cam1.conf LD_PRELOAD=./v4l2_shim.so program
 *
 * Only open, ioctl, mmap, munmap and close are played. The file that open returns is one end of a socket pair, so
 * poll and select are the kernel's own; the buffers lie in a memfd. Each camera is one file of lines:
 *
 *   node 0                      /dev/video0
 *   card NAME / bus NAME        what QUERYCAP says
 *   kind camera                 or metadata, planes (multi-planar), foreign (not V4L2 at all), denied (EACCES)
 *   fps 100                     0: the next picture comes as soon as a buffer is free, none is ever dropped
 *   play YUYV 320 240 640 FILE  pictures for this format: bytesperline, file of (u32 size, bytes) records, in a loop
 *   padding 64                  bytes that sizeimage is larger than the picture
 *   sloppy 1                    knows the basic ioctls only; flags, time stamps and sequence are 0
 *   events 1                    can announce a change of the source
 *   control ID VALUE LEAST MOST
 *   log FILE                    one line for each thing that happened
 *   commands FILE               more lines `fault ...`, appended while it runs; `now` as the picture's number
 *   fault NUMBER KIND [A [B]]   at that picture (counted from 0, going on over a reopen):
 *     error | eio | empty | oversize | garbage | zero-stamp
 *     truncate PERCENT | zeros PERCENT (from there on) | late MS | gap N | frozen N | silence MS
 *     hang MS                   DQBUF does not return, whatever comes; block MS: the same, but a signal ends it (EINTR)
 *     resize WIDTH HEIGHT (the pictures only) | renegotiate WIDTH HEIGHT (G_FMT and an event too)
 *     unplug MS NODE            gone, back after MS under /dev/videoNODE
 *     steal NODE                the camera of that number takes ours (together with unplug)
 *   back-as CARD,BUS            what QUERYCAP says after coming back
 *   busy open|format|buffers|start N      EBUSY for the next N tries
 *
 * MS 0 means for ever. No fault is hidden: everything is written to the log.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { CAMERAS = 8, PLAYS = 8, FAULTS = 64, CONTROLS = 16, BUFFERS = 16, FILES = 4096 };
enum { AT_OPEN, AT_FORMAT, AT_BUFFERS, AT_START, BUSY_KINDS };
static const char *const busy_names[BUSY_KINDS] = {"open", "format", "buffers", "start"};

struct play { unsigned fourcc, width, height, stride, count; unsigned char *bytes; size_t *offset; unsigned *size; };
struct fault { long at; char kind[16]; long a, b; };
struct control { unsigned id; int value, least, most; };
struct buffer { int queued, done; unsigned used, flags, sequence; long long stamp_ns; long hang_ms; int interruptible, eio; };

struct camera {
    int node, wanted_node, kind, sloppy, events, loaded;
    char card[32], bus[32], back_as[64], log[256], commands[256];
    double fps;
    unsigned padding;
    long long back_ns;              /* unplugged until then; -1: for ever */
    struct play plays[PLAYS]; int play_count;
    struct fault faults[FAULTS]; int fault_count;
    struct control controls[CONTROLS]; int control_count;
    int busy[BUSY_KINDS];
    long commands_read;
    /* the running stream */
    int owner, peer, memory, mapped, count, streaming, announced, subscribed, thread_runs;
    unsigned generation, length;
    unsigned char *base;
    struct play *format, *shown_format;
    struct buffer buffers[BUFFERS];
    int order[BUFFERS], order_count;        /* buffers with the driver, oldest first */
    int ready[BUFFERS], ready_count;
    long shown, record, frozen;
    unsigned sequence;
    long long silent_until_ns;
    pthread_t thread;
};

static struct camera cameras[CAMERAS];
static int camera_count = -1;
static struct { struct camera *camera; unsigned generation; int peer; } files[FILES];
static struct { void *at; size_t length; struct camera *camera; } maps[64];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static long long now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void say(struct camera *c, const char *format, ...) {
    if (!c->log[0]) return;
    FILE *f = fopen(c->log, "ae");
    if (!f) return;
    va_list args;
    va_start(args, format);
    vfprintf(f, format, args);
    va_end(args);
    fputc('\n', f);
    fclose(f);
}

/* ---- the cameras' files -------------------------------------------------------------------------------------- */

static void load_play(struct camera *c, const char *line) {
    struct play *p = &c->plays[c->play_count];
    char fourcc[5] = "", path[256] = "";
    if (sscanf(line, "%4s %u %u %u %255s", fourcc, &p->width, &p->height, &p->stride, path) != 5) return;
    p->fourcc = v4l2_fourcc(fourcc[0], fourcc[1], fourcc[2], fourcc[3]);
    FILE *f = fopen(path, "rbe");
    struct stat st;
    if (!f || fstat(fileno(f), &st)) { perror(path); abort(); }
    p->bytes = malloc(st.st_size);
    if (fread(p->bytes, 1, st.st_size, f) != (size_t)st.st_size) abort();
    fclose(f);
    for (size_t at = 0; at + 4 <= (size_t)st.st_size;) {
        unsigned size;
        memcpy(&size, p->bytes + at, 4);
        p->offset = realloc(p->offset, (p->count + 1) * sizeof *p->offset);
        p->size = realloc(p->size, (p->count + 1) * sizeof *p->size);
        p->offset[p->count] = at + 4;
        p->size[p->count++] = size;
        at += 4 + size;
    }
    c->play_count++;
}

static void load_fault(struct camera *c, const char *line) {
    struct fault f = {0};
    char at[16] = "";
    int kept = 0; /* what is over makes room */
    for (int i = 0; i < c->fault_count; i++)
        if (c->faults[i].at >= c->shown) c->faults[kept++] = c->faults[i];
    c->fault_count = kept;
    if (c->fault_count == FAULTS || sscanf(line, "%15s %15s %ld %ld", at, f.kind, &f.a, &f.b) < 2) return;
    f.at = strcmp(at, "now") ? atol(at) : c->shown;
    c->faults[c->fault_count++] = f;
}

static void load_busy(struct camera *c, const char *line) {
    char kind[16] = "";
    int n = 0;
    if (sscanf(line, "%15s %d", kind, &n) != 2) return;
    for (int i = 0; i < BUSY_KINDS; i++)
        if (!strcmp(kind, busy_names[i])) c->busy[i] = n;
}

static void load_line(struct camera *c, char *line) {
    line[strcspn(line, "\n")] = 0;
    char *rest = strchr(line, ' ');
    if (!rest) return;
    *rest++ = 0;
    struct control *k = &c->controls[c->control_count];
    if (!strcmp(line, "node")) c->node = c->wanted_node = atoi(rest);
    else if (!strcmp(line, "card")) snprintf(c->card, sizeof c->card, "%s", rest);
    else if (!strcmp(line, "bus")) snprintf(c->bus, sizeof c->bus, "%s", rest);
    else if (!strcmp(line, "back-as")) snprintf(c->back_as, sizeof c->back_as, "%s", rest);
    else if (!strcmp(line, "kind")) c->kind = rest[0];
    else if (!strcmp(line, "fps")) c->fps = atof(rest);
    else if (!strcmp(line, "padding")) c->padding = atoi(rest);
    else if (!strcmp(line, "sloppy")) c->sloppy = atoi(rest);
    else if (!strcmp(line, "events")) c->events = atoi(rest);
    else if (!strcmp(line, "log")) snprintf(c->log, sizeof c->log, "%s", rest);
    else if (!strcmp(line, "commands")) snprintf(c->commands, sizeof c->commands, "%s", rest);
    else if (!strcmp(line, "play")) load_play(c, rest);
    else if (!strcmp(line, "fault")) load_fault(c, rest);
    else if (!strcmp(line, "busy")) load_busy(c, rest);
    else if (!strcmp(line, "control") && sscanf(rest, "%u %d %d %d", &k->id, &k->value, &k->least, &k->most) == 4)
        c->control_count++;
}

static long load_lines(struct camera *c, const char *path, long from) {
    FILE *f = fopen(path, "re");
    if (!f) return from;
    char line[512];
    fseek(f, from, SEEK_SET);
    while (fgets(line, sizeof line, f) && line[strlen(line) - 1] == '\n') {
        from = ftell(f);
        load_line(c, line);
    }
    fclose(f);
    return from;
}

static void load_cameras(void) {
    const char *named = getenv("V4L2_SHIM");
    camera_count = 0;
    if (!named) return;
    char *paths = strdup(named), *save = NULL;
    for (char *p = strtok_r(paths, ":", &save); p && camera_count < CAMERAS; p = strtok_r(NULL, ":", &save)) {
        struct camera *c = &cameras[camera_count++];
        c->kind = 'c';
        c->owner = c->peer = c->memory = -1;
        load_lines(c, p, 0);
        c->format = &c->plays[0];
    }
    free(paths);
}

static struct camera *camera_at(const char *path) {
    int node, end = 0;
    if (!path || sscanf(path, "/dev/video%d%n", &node, &end) != 1 || path[end]) return NULL;
    if (camera_count < 0) load_cameras();
    for (struct camera *c = cameras; c < cameras + camera_count; c++) {
        if (c->back_ns > 0 && now_ns() >= c->back_ns) {
            c->back_ns = 0;
            c->node = c->wanted_node;
            sscanf(c->back_as, "%31[^,],%31[^,]", c->card, c->bus);
            say(c, "back node %d", c->node);
        }
        if (c->node == node && c->back_ns == 0) return c;
    }
    return NULL;
}

/* ---- taking pictures ----------------------------------------------------------------------------------------- */

static struct play *play_of(struct camera *c, unsigned fourcc, unsigned width, unsigned height) {
    struct play *same_fourcc = NULL;
    for (struct play *p = c->plays; p < c->plays + c->play_count; p++) {
        if (p->fourcc != fourcc) continue;
        if (p->width == width && p->height == height) return p;
        if (!same_fourcc) same_fourcc = p;
    }
    return same_fourcc;
}

static unsigned size_of(struct camera *c, struct play *p) {
    return (p->stride ? p->stride * p->height : p->width * p->height * 2) + c->padding;
}

static void wake(struct camera *c) { if (c->peer >= 0) (void)!write(c->peer, "!", 1); }

static void unplug(struct camera *c, long ms, int node) {
    c->back_ns = ms ? now_ns() + ms * 1000000LL : -1;
    say(c, "unplug %lld", now_ns());
    c->wanted_node = node;
    c->generation++;
    c->streaming = 0;
    shutdown(c->peer, SHUT_RDWR);
    pthread_cond_broadcast(&changed);
}

static unsigned fill(struct camera *c, int index) {
    struct play *p = c->shown_format;
    long record = c->record % p->count;
    unsigned size = p->size[record];
    if (size > c->length) size = c->length;
    memcpy(c->base + (size_t)index * c->length, p->bytes + p->offset[record], size);
    return size;
}

/* Faults that change the picture in this buffer; the others were dealt with before. */
static void damage(struct camera *c, struct fault *f, int index) {
    struct buffer *b = &c->buffers[index];
    unsigned char *bytes = c->base + (size_t)index * c->length;
    if (!strcmp(f->kind, "error")) b->flags |= V4L2_BUF_FLAG_ERROR;
    else if (!strcmp(f->kind, "eio")) b->eio = 1;
    else if (!strcmp(f->kind, "empty")) b->used = 0;
    else if (!strcmp(f->kind, "oversize")) b->used = size_of(c, c->format) + 4096;
    else if (!strcmp(f->kind, "truncate")) b->used = (unsigned long)b->used * f->a / 100;
    else if (!strcmp(f->kind, "late")) b->stamp_ns -= f->a * 1000000LL;
    else if (!strcmp(f->kind, "zero-stamp")) b->stamp_ns = 0;
    else if (!strcmp(f->kind, "hang") || !strcmp(f->kind, "block")) {
        b->hang_ms = f->a ? f->a : -1;
        b->interruptible = f->kind[0] == 'b';
    }
    else if (!strcmp(f->kind, "zeros")) memset(bytes + b->used * f->a / 100, 0, b->used - b->used * f->a / 100);
    else if (!strcmp(f->kind, "garbage")) for (unsigned i = 0; i < b->used; i++) bytes[i] = rand();
}

static void steal(struct camera *c, long node) {
    for (struct camera *other = cameras; other < cameras + camera_count; other++)
        if (other != c && other->node == node) other->node = c->node;
}

static void stage(struct camera *c, struct fault *f) {
    if (!strcmp(f->kind, "steal")) steal(c, f->a);
    else if (!strcmp(f->kind, "unplug")) unplug(c, f->a, (int)f->b);
    else if (!strcmp(f->kind, "gap")) c->sequence += f->a, c->record += f->a;
    else if (!strcmp(f->kind, "frozen")) c->frozen = f->a;
    else if (!strcmp(f->kind, "silence")) c->silent_until_ns = f->a ? now_ns() + f->a * 1000000LL : -1;
    else if (!strcmp(f->kind, "resize")) c->shown_format = play_of(c, c->format->fourcc, f->a, f->b);
    else if (!strcmp(f->kind, "renegotiate")) {
        c->format = c->shown_format = play_of(c, c->format->fourcc, f->a, f->b);
        c->announced = c->subscribed;
        if (c->announced) (void)!send(c->peer, "!", 1, MSG_OOB);
    }
}

static void expose(struct camera *c) {
    int index = c->order[0];
    struct buffer *b = &c->buffers[index];
    memmove(c->order, c->order + 1, --c->order_count * sizeof c->order[0]);
    memset(b, 0, sizeof *b);
    b->used = fill(c, index);
    b->sequence = c->sequence;
    b->stamp_ns = now_ns();
    b->done = 1;
    char faults[128] = "";
    for (struct fault *f = c->faults; f < c->faults + c->fault_count; f++)
        if (f->at == c->shown) {
            damage(c, f, index);
            snprintf(faults + strlen(faults), sizeof faults - strlen(faults), " %s", f->kind);
        }
    c->ready[c->ready_count++] = index;
    say(c, "picture %ld record %ld sequence %u%s", c->shown, c->record % c->shown_format->count, b->sequence, faults);
    wake(c);
}

static void tick(struct camera *c) {
    if (c->commands[0]) c->commands_read = load_lines(c, c->commands, c->commands_read);
    for (struct fault *f = c->faults; f < c->faults + c->fault_count; f++)
        if (f->at == c->shown) stage(c, f);
    int silent = c->silent_until_ns < 0 || now_ns() < c->silent_until_ns;
    if (c->streaming && !silent) {
        if (c->order_count) expose(c);
        else say(c, "dropped %ld", c->shown);
    }
    c->shown++;
    c->sequence++;
    if (c->frozen > 0) c->frozen--;
    else c->record++;
}

static void *feed(void *argument) {
    struct camera *c = argument;
    long long next = now_ns();
    pthread_mutex_lock(&lock);
    unsigned generation = c->generation;
    while (c->streaming && c->generation == generation) {
        if (c->fps > 0) {
            next += (long long)(1e9 / c->fps);
            struct timespec until = {next / 1000000000LL, next % 1000000000LL};
            pthread_mutex_unlock(&lock);
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
            pthread_mutex_lock(&lock);
        } else if (!c->order_count || c->ready_count) {
            pthread_cond_wait(&changed, &lock);
            continue;
        } else if (c->silent_until_ns < 0 || now_ns() < c->silent_until_ns) {
            pthread_mutex_unlock(&lock);
            usleep(1000);
            pthread_mutex_lock(&lock);
            continue;
        }
        if (c->streaming && c->generation == generation) tick(c);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* ---- the ioctls ---------------------------------------------------------------------------------------------- */

static int refuse(int code) { errno = code; return -1; }

static int is_busy(struct camera *c, int at) {
    if (c->busy[at] <= 0) return 0;
    c->busy[at]--;
    say(c, "busy %s", busy_names[at]);
    return 1;
}

static int querycap(struct camera *c, struct v4l2_capability *cap) {
    memset(cap, 0, sizeof *cap);
    snprintf((char *)cap->driver, sizeof cap->driver, "shim");
    memcpy(cap->card, c->card, sizeof cap->card);
    memcpy(cap->bus_info, c->bus, sizeof cap->bus_info);
    cap->device_caps = V4L2_CAP_STREAMING | (c->kind == 'm' ? V4L2_CAP_META_CAPTURE :
                       c->kind == 'p' ? V4L2_CAP_VIDEO_CAPTURE_MPLANE : V4L2_CAP_VIDEO_CAPTURE);
    cap->capabilities = cap->device_caps | V4L2_CAP_DEVICE_CAPS | V4L2_CAP_VIDEO_CAPTURE;
    return 0;
}

static int enum_fmt(struct camera *c, struct v4l2_fmtdesc *d) {
    unsigned seen[PLAYS], count = 0;
    for (int i = 0; i < c->play_count; i++) {
        unsigned known = 0;
        for (unsigned j = 0; j < count; j++) known |= seen[j] == c->plays[i].fourcc;
        if (!known) seen[count++] = c->plays[i].fourcc;
    }
    if (d->index >= count) return refuse(EINVAL);
    d->pixelformat = seen[d->index];
    return 0;
}

static int enum_sizes(struct camera *c, struct v4l2_frmsizeenum *e) {
    unsigned index = 0;
    for (int i = 0; i < c->play_count; i++)
        if (c->plays[i].fourcc == e->pixel_format && index++ == e->index) {
            e->type = V4L2_FRMSIZE_TYPE_DISCRETE;
            e->discrete.width = c->plays[i].width;
            e->discrete.height = c->plays[i].height;
            return 0;
        }
    return refuse(EINVAL);
}

static int format(struct camera *c, unsigned long request, struct v4l2_format *f) {
    if (f->type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return refuse(EINVAL);
    struct v4l2_pix_format *pix = &f->fmt.pix;
    struct play *p = c->format;
    if (request != VIDIOC_G_FMT) {
        p = play_of(c, pix->pixelformat, pix->width, pix->height);
        if (!p) p = c->format;
        if (request == VIDIOC_S_FMT) {
            if (is_busy(c, AT_FORMAT) || c->count) return refuse(EBUSY);
            c->format = p;
        }
    }
    memset(pix, 0, sizeof *pix);
    *pix = (struct v4l2_pix_format){.width = p->width, .height = p->height, .pixelformat = p->fourcc,
                                    .field = V4L2_FIELD_NONE, .bytesperline = p->stride, .sizeimage = size_of(c, p)};
    return 0;
}

static int rate(struct camera *c, struct v4l2_streamparm *p) {
    memset(&p->parm, 0, sizeof p->parm);
    p->parm.capture.capability = V4L2_CAP_TIMEPERFRAME;
    p->parm.capture.timeperframe.numerator = 1000;
    p->parm.capture.timeperframe.denominator = c->fps > 0 ? (unsigned)(c->fps * 1000) : 30000;
    return 0;
}

static void let_go(struct camera *c) {
    if (c->base) syscall(SYS_munmap, c->base, (size_t)c->length * c->count);
    if (c->memory >= 0) syscall(SYS_close, c->memory);
    c->base = NULL;
    c->memory = -1;
    c->count = c->order_count = c->ready_count = 0;
}

static int request_buffers(struct camera *c, int fd, struct v4l2_requestbuffers *r) {
    if (r->memory != V4L2_MEMORY_MMAP || r->type != V4L2_BUF_TYPE_VIDEO_CAPTURE) return refuse(EINVAL);
    if (c->owner >= 0 && c->owner != fd) return refuse(EBUSY);
    if (c->streaming || (r->count && is_busy(c, AT_BUFFERS))) return refuse(EBUSY);
    if (c->mapped) {
        say(c, "wrong: buffers let go while %d are mapped", c->mapped);
        return refuse(EBUSY);
    }
    let_go(c);
    c->owner = -1;
    if (!r->count) return 0;
    if (r->count > BUFFERS) r->count = BUFFERS;
    c->count = r->count;
    c->length = (size_of(c, c->format) + 4095) / 4096 * 4096;
    c->memory = memfd_create("v4l2 buffers", MFD_CLOEXEC);
    if (ftruncate(c->memory, (off_t)c->length * c->count)) return refuse(ENOMEM);
    c->base = (void *)syscall(SYS_mmap, 0, (size_t)c->length * c->count, PROT_READ | PROT_WRITE, MAP_SHARED, c->memory, 0);
    c->owner = fd;
    c->peer = files[fd].peer;
    return 0;
}

static int query_buffer(struct camera *c, struct v4l2_buffer *b) {
    if (b->index >= (unsigned)c->count) return refuse(EINVAL);
    b->length = c->length;
    b->m.offset = b->index * c->length;
    return 0;
}

static int queue(struct camera *c, struct v4l2_buffer *b) {
    if (b->index >= (unsigned)c->count) return refuse(EINVAL);
    struct buffer *mine = &c->buffers[b->index];
    if (mine->queued || mine->done) return refuse(EINVAL);
    mine->queued = 1;
    c->order[c->order_count++] = b->index;
    pthread_cond_broadcast(&changed);
    return 0;
}

/* -1 when a signal ended it. */
static int hang(long ms, int interruptible) {
    struct timespec t = {ms < 0 ? 1000000000 : ms / 1000, ms < 0 ? 0 : ms % 1000 * 1000000};
    while (nanosleep(&t, &t))
        if (interruptible) return -1;
    return 0;
}

static int dequeue(struct camera *c, int fd, struct v4l2_buffer *b) {
    char byte;
    if (!c->streaming) return refuse(EINVAL);
    if (!c->ready_count) return refuse(EAGAIN);
    int index = c->ready[0];
    struct buffer *mine = &c->buffers[index];
    memmove(c->ready, c->ready + 1, --c->ready_count * sizeof c->ready[0]);
    (void)!recv(fd, &byte, 1, MSG_DONTWAIT);
    mine->queued = mine->done = 0;
    long ms = mine->hang_ms;
    *b = (struct v4l2_buffer){.index = index, .type = V4L2_BUF_TYPE_VIDEO_CAPTURE, .memory = V4L2_MEMORY_MMAP,
                              .bytesused = mine->used, .length = c->length, .m.offset = index * c->length};
    if (!c->sloppy) {
        b->flags = mine->flags | V4L2_BUF_FLAG_MAPPED | V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
        b->sequence = mine->sequence;
        b->timestamp.tv_sec = mine->stamp_ns / 1000000000LL;
        b->timestamp.tv_usec = mine->stamp_ns % 1000000000LL / 1000;
    } else b->flags = mine->flags;
    pthread_cond_broadcast(&changed);
    if (ms) {
        say(c, "%s %lld", mine->interruptible ? "block" : "hang", now_ns());
        pthread_mutex_unlock(&lock);
        int cut = hang(ms, mine->interruptible);
        pthread_mutex_lock(&lock);
        if (cut) {
            say(c, "cut %lld", now_ns());
            return refuse(EINTR);
        }
    }
    return mine->eio ? refuse(EIO) : 0;
}

static int start(struct camera *c) {
    if (is_busy(c, AT_START)) return refuse(EBUSY);
    if (!c->count || c->streaming) return refuse(EINVAL);
    c->shown_format = c->format;
    c->streaming = 1;
    c->silent_until_ns = 0;
    c->generation++;
    files[c->owner].generation = c->generation;
    pthread_create(&c->thread, NULL, feed, c);
    pthread_detach(c->thread);
    say(c, "start");
    return 0;
}

static int stop(struct camera *c, int fd) {
    char bytes[256];
    if (c->streaming) {
        c->streaming = 0;
        c->generation++;
        files[fd].generation = c->generation;
        say(c, "stop");
    }
    while (recv(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0) {}
    memset(c->buffers, 0, sizeof c->buffers);
    c->order_count = c->ready_count = 0;
    pthread_cond_broadcast(&changed);
    return 0;
}

static int control(struct camera *c, unsigned long request, struct v4l2_control *k) {
    for (struct control *mine = c->controls; mine < c->controls + c->control_count; mine++) {
        if (mine->id != k->id) continue;
        if (request == VIDIOC_S_CTRL) {
            mine->value = k->value < mine->least ? mine->least : k->value > mine->most ? mine->most : k->value;
            say(c, "control %u %d", mine->id, mine->value);
        }
        k->value = mine->value;
        return 0;
    }
    return refuse(EINVAL);
}

static int event(struct camera *c, int fd, struct v4l2_event *e) {
    char byte;
    if (!c->announced) return refuse(ENOENT);
    (void)!recv(fd, &byte, 1, MSG_OOB | MSG_DONTWAIT);
    c->announced = 0;
    memset(e, 0, sizeof *e);
    e->type = V4L2_EVENT_SOURCE_CHANGE;
    e->u.src_change.changes = V4L2_EVENT_SRC_CH_RESOLUTION;
    return 0;
}

static int optional(struct camera *c, int fd, unsigned long request, void *argument) {
    if (c->sloppy) return refuse(ENOTTY);
    switch (request) {
    case VIDIOC_ENUM_FMT: return enum_fmt(c, argument);
    case VIDIOC_ENUM_FRAMESIZES: return enum_sizes(c, argument);
    case VIDIOC_G_PARM: case VIDIOC_S_PARM: return rate(c, argument);
    case VIDIOC_G_CTRL: case VIDIOC_S_CTRL: return control(c, request, argument);
    case VIDIOC_SUBSCRIBE_EVENT: return c->events ? (c->subscribed = 1, 0) : refuse(EINVAL);
    case VIDIOC_DQEVENT: return event(c, fd, argument);
    default: return refuse(ENOTTY);
    }
}

static int answer(struct camera *c, int fd, unsigned long request, void *argument) {
    switch (request) {
    case VIDIOC_QUERYCAP: return querycap(c, argument);
    case VIDIOC_G_FMT: case VIDIOC_S_FMT: case VIDIOC_TRY_FMT: return format(c, request, argument);
    case VIDIOC_REQBUFS: return request_buffers(c, fd, argument);
    case VIDIOC_QUERYBUF: return query_buffer(c, argument);
    case VIDIOC_QBUF: return queue(c, argument);
    case VIDIOC_DQBUF: return dequeue(c, fd, argument);
    case VIDIOC_STREAMON: return start(c);
    case VIDIOC_STREAMOFF: return stop(c, fd);
    default: return optional(c, fd, request, argument);
    }
}

/* ---- what the program calls ---------------------------------------------------------------------------------- */

static int open_camera(struct camera *c, int flags) {
    int ends[2];
    if (c->kind == 'd') return refuse(EACCES);
    if (is_busy(c, AT_OPEN)) return refuse(EBUSY);
    if (socketpair(AF_UNIX, SOCK_STREAM | (flags & O_CLOEXEC ? SOCK_CLOEXEC : 0), 0, ends)) return -1;
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    files[ends[0]].camera = c;
    files[ends[0]].generation = c->generation;
    files[ends[0]].peer = ends[1];
    return ends[0];
}

static int open_any(int folder, const char *path, int flags, mode_t mode) {
    if (path && !strncmp(path, "/dev/video", 10)) {
        pthread_mutex_lock(&lock);
        struct camera *c = camera_at(path);
        int fd = c ? open_camera(c, flags) : refuse(ENOENT);
        pthread_mutex_unlock(&lock);
        return fd;
    }
    return (int)syscall(SYS_openat, folder, path, flags, mode);
}

#define OPEN(folder) \
    va_list args; va_start(args, flags); mode_t mode = va_arg(args, mode_t); va_end(args); \
    return open_any(folder, path, flags, mode);

int open(const char *path, int flags, ...) { OPEN(AT_FDCWD) }
int open64(const char *path, int flags, ...) { OPEN(AT_FDCWD) }
int openat(int folder, const char *path, int flags, ...) { OPEN(folder) }
int openat64(int folder, const char *path, int flags, ...) { OPEN(folder) }

static int is_ours(int fd) { return fd >= 0 && fd < FILES && files[fd].camera; }

int ioctl(int fd, unsigned long request, ...) {
    va_list args;
    va_start(args, request);
    void *argument = va_arg(args, void *);
    va_end(args);
    if (!is_ours(fd)) return (int)syscall(SYS_ioctl, fd, request, argument);
    pthread_mutex_lock(&lock);
    struct camera *c = files[fd].camera;
    int result = c->back_ns != 0 || (c->owner == fd && files[fd].generation != c->generation) ? refuse(ENODEV)
               : c->kind == 'f' ? refuse(ENOTTY) : answer(c, fd, (unsigned)request, argument);
    pthread_mutex_unlock(&lock);
    return result;
}

void *mmap(void *at, size_t length, int prot, int flags, int fd, off_t offset) {
    if (!is_ours(fd)) return (void *)syscall(SYS_mmap, at, length, prot, flags, fd, offset);
    pthread_mutex_lock(&lock);
    struct camera *c = files[fd].camera;
    void *found = c->memory < 0 ? (errno = EINVAL, MAP_FAILED)
                                : (void *)syscall(SYS_mmap, at, length, prot, flags, c->memory, offset);
    for (int i = 0; found != MAP_FAILED && i < 64; i++)
        if (!maps[i].at) {
            maps[i].at = found;
            maps[i].length = length;
            maps[i].camera = c;
            c->mapped++;
            break;
        }
    pthread_mutex_unlock(&lock);
    return found;
}

void *mmap64(void *at, size_t length, int prot, int flags, int fd, off_t offset) {
    return mmap(at, length, prot, flags, fd, offset);
}

int munmap(void *at, size_t length) {
    for (int i = 0; i < 64; i++)
        if (at && maps[i].at == at) {
            pthread_mutex_lock(&lock);
            maps[i].at = NULL;
            maps[i].camera->mapped--;
            pthread_mutex_unlock(&lock);
        }
    return (int)syscall(SYS_munmap, at, length);
}

int close(int fd) {
    if (is_ours(fd)) {
        pthread_mutex_lock(&lock);
        struct camera *c = files[fd].camera;
        if (c->owner == fd) {
            stop(c, fd);
            if (c->mapped) say(c, "wrong: closed while %d buffers are mapped", c->mapped);
            c->mapped = 0;
            let_go(c);
            c->owner = c->peer = -1;
        }
        syscall(SYS_close, files[fd].peer);
        files[fd].camera = NULL;
        pthread_mutex_unlock(&lock);
    }
    return (int)syscall(SYS_close, fd);
}
