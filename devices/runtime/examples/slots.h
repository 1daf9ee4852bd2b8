/* slots.h - two places for a bundle, of which one is in service: A/B update that a loss of power cannot break.
 *
 *     STATE/slot-a/   a bundle
 *     STATE/slot-b/   the other one, older or newer; or what a broken update left there
 *     STATE/current   symbolic link to the one in service
 *     STATE/lock      held while an update runs
 *
 * A new bundle is copied into the slot that is not in service, flushed, and proven there. Then the link is replaced by
 * one rename(2), which is atomic: at every moment `current` leads to one whole bundle that has passed, the old or the
 * new. The slot in service is never written to.
 */
#ifndef EDGESKIN_SLOTS_H
#define EDGESKIN_SLOTS_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { SLOTS_PATH = 4096, SLOTS_DEPTH = 16 };

static const char *const slots_names[2] = {"slot-a", "slot-b"};

/* Says what failed, and why; always 0. */
static int slots_refuse(const char *what, const char *path, const char *why, const char *fix) {
    fprintf(stderr, "update: %s; got: %s: %s; fix: %s\n", what, path, why, fix);
    return 0;
}

/* The same for what the system refused. */
static int slots_failed(const char *what, const char *path) {
    const int full = errno == ENOSPC || errno == EDQUOT;
    return slots_refuse(what, path, strerror(errno), full ? "free space on the disk" : "check the path and its rights");
}

static int slots_join(char made[SLOTS_PATH], const char *folder, const char *name) {
    const int length = snprintf(made, SLOTS_PATH, "%s/%s", folder, name);
    if (length > 0 && length < SLOTS_PATH) return 1;
    return slots_refuse("a path is too long", name, "more than 4095 bytes", "use a shorter one");
}

/* Puts the names in a folder on the disk. */
static int slots_flush(const char *folder) {
    const int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const int done = fd >= 0 && fsync(fd) == 0;
    if (!done) slots_failed("a folder cannot be flushed", folder);
    if (fd >= 0) close(fd);
    return done;
}

/* ---- Whole folders ----------------------------------------------------------------------------------------------- */

static int slots_copy_file(const char *from, const char *to) {
    static char block[1 << 16]; /* one update at a time: the lock sees to it */
    const int in = open(from, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    const int out = in < 0 ? -1 : open(to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    FILE *source = in < 0 ? NULL : fdopen(in, "rb"), *sink = out < 0 ? NULL : fdopen(out, "wb");
    int done = source && sink;
    while (done) {
        const size_t count = fread(block, 1, sizeof block, source);
        if (count == 0) break;
        done = fwrite(block, 1, count, sink) == count;
    }
    done = done && !ferror(source) && fflush(sink) == 0 && fsync(out) == 0;
    if (!done) slots_failed("a file cannot be copied", from);
    if (source) fclose(source);
    if (sink && fclose(sink) != 0 && done) done = slots_failed("a file cannot be copied", from);
    return done;
}

typedef int (*slots_visit)(const char *path, const char *other);

/* Calls `each` for every file below `from`; `folder` before what lies in one, `after` after it, each where given. */
static int slots_walk(const char *from, const char *to, int depth, slots_visit each, slots_visit folder,
                      slots_visit after) {
    DIR *listing = opendir(from);
    struct dirent *entry;
    int done = listing != NULL;
    if (!done) return slots_failed("a folder cannot be read", from);
    if (depth > SLOTS_DEPTH) done = slots_refuse("no bundle", from, "folders too deep", "pass a bundle");
    if (done && folder) done = folder(from, to);
    while (done && (entry = readdir(listing)) != NULL) {
        char one[SLOTS_PATH], other[SLOTS_PATH];
        struct stat found;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        done = slots_join(one, from, entry->d_name) && slots_join(other, to, entry->d_name);
        if (done && lstat(one, &found) != 0) done = slots_failed("a file cannot be read", one);
        if (done && S_ISDIR(found.st_mode))
            done = slots_walk(one, other, depth + 1, each, folder, after);
        else if (done)
            done = each(one, other);
    }
    closedir(listing);
    return done && (!after || after(from, to));
}

static int slots_copy_one(const char *from, const char *to) {
    struct stat found;
    if (lstat(from, &found) == 0 && S_ISREG(found.st_mode)) return slots_copy_file(from, to);
    return slots_refuse("unsafe bundle", from, "a link or no regular file", "put the file itself there");
}

static int slots_make_folder(const char *from, const char *to) {
    (void)from;
    return mkdir(to, 0755) == 0 || slots_failed("a folder cannot be made", to);
}

static int slots_flush_other(const char *from, const char *to) {
    (void)from;
    return slots_flush(to);
}

static int slots_unlink(const char *path, const char *other) {
    (void)other;
    return unlink(path) == 0 || slots_failed("a file cannot be removed", path);
}

static int slots_rmdir(const char *path, const char *other) {
    (void)other;
    return rmdir(path) == 0 || slots_failed("a folder cannot be removed", path);
}

static int slots_remove(const char *folder) {
    struct stat found;
    if (lstat(folder, &found) != 0) return errno == ENOENT || slots_failed("a slot cannot be read", folder);
    if (!S_ISDIR(found.st_mode)) return slots_unlink(folder, folder);
    return slots_walk(folder, folder, 0, slots_unlink, NULL, slots_rmdir);
}

/* Whether `from` is a folder, and none that is emptied to make room for it. */
static int slots_apart(const char *from, const char *slot) {
    struct stat given, room;
    if (stat(from, &given) != 0) return slots_failed("no such bundle", from);
    if (!S_ISDIR(given.st_mode)) return slots_refuse("no bundle", from, "no folder", "unpack it first");
    if (stat(slot, &room) != 0 || given.st_dev != room.st_dev || given.st_ino != room.st_ino) return 1;
    return slots_refuse("the bundle lies in the slot itself", from, "it would be removed", "pass a copy, or go back");
}

/* Copy a folder of files to where nothing is; what was copied is on the disk when this returns 1. */
static int slots_copy(const char *from, const char *to) {
    return slots_walk(from, to, 0, slots_copy_one, slots_make_folder, slots_flush_other);
}

/* ---- The link ---------------------------------------------------------------------------------------------------- */

/* Number of the slot in service; -1: none yet; -2: `current` is something else, which was said. */
static int slots_current(const char *state) {
    char link[SLOTS_PATH], target[16];
    ssize_t length;
    int slot;
    if (!slots_join(link, state, "current")) return -2;
    length = readlink(link, target, sizeof target - 1);
    if (length < 0 && errno == ENOENT) return -1;
    if (length > 0) {
        target[length] = '\0';
        for (slot = 0; slot < 2; ++slot)
            if (strcmp(target, slots_names[slot]) == 0) return slot;
    }
    slots_refuse("not a state folder", link, "no link to slot-a or slot-b", "pass a folder of its own");
    return -2;
}

/* Put a slot into service. */
static int slots_switch(const char *state, int slot) {
    char link[SLOTS_PATH], fresh[SLOTS_PATH];
    if (!slots_join(link, state, "current") || !slots_join(fresh, state, "current.new")) return 0;
    if (unlink(fresh) != 0 && errno != ENOENT) return slots_failed("a file cannot be removed", fresh);
    if (symlink(slots_names[slot], fresh) != 0) return slots_failed("a link cannot be made", fresh);
    if (rename(fresh, link) != 0) return slots_failed("the link cannot be replaced", link);
    return slots_flush(state);
}

/* Hold the state folder until the program ends, however it ends; made if it is not there. */
static int slots_lock(const char *state) {
    char path[SLOTS_PATH];
    struct flock all;
    int fd;
    if (mkdir(state, 0755) != 0 && errno != EEXIST) return slots_failed("the folder cannot be made", state);
    if (!slots_join(path, state, "lock")) return 0;
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return slots_failed("the lock cannot be opened", path);
    memset(&all, 0, sizeof all);
    all.l_type = F_WRLCK;
    all.l_whence = SEEK_SET;
    if (fcntl(fd, F_SETLK, &all) == 0) return 1; /* never closed: the system lets go of it at the end */
    close(fd);
    if (errno == EACCES || errno == EAGAIN)
        return slots_refuse("another update is running", state, "its lock is held", "wait for its end");
    return slots_failed("the lock cannot be taken", path);
}

#endif
