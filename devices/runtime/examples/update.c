/* update - exchanges the bundle of a device while it works.
 *
 *     update [OPTIONS] install STATE NEW_BUNDLE   copy it into the free slot, prove it there, switch to it
 *     update [OPTIONS] back STATE                 switch to the bundle that was in service before, if it still holds
 *     update [OPTIONS] serve STATE                classify without end with the bundle in service, whichever it is
 *
 * STATE is a folder of its own, see slots.h. A new bundle that does not open (hash, signature, engine) or fails its
 * self-test leaves the old one in service. `serve` shows the other half: it classifies a drawn frame on one thread, and
 * where `current` changes (looked at ten times a second, and on SIGHUP) it opens the new bundle on another, while the
 * old one answers; then the pointer is exchanged, and the old one closed after its last call. No call is refused.
 *
 * Exit codes: 0 done; 1 the new bundle was refused, the old one stays; 2 anything else that failed.
 *
 * Research software, not a medical device.
 */
#include <edgeskin.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "slots.h"

enum { DONE = 0, KEPT_OLD = 1, FAILED = 2 };

static const char usage[] =
    "usage: update [OPTIONS] install STATE NEW_BUNDLE | back STATE | serve STATE\n"
    "  --backend-path DIR  folder with the engine's libraries  (or EDGESKIN_BACKEND_PATH)\n"
    "  --key HEX           Ed25519 public key, 64 digits: bundles must be signed by it  (or EDGESKIN_KEY)\n";

/* A bundle opened and tested; NULL: it was refused, and why was said. */
static es_model *prove(const char *path, const es_options *options) {
    es_model *model = NULL;
    es_status status = es_open(path, options, &model);
    if (status == ES_OK) status = es_selftest(model, NULL);
    if (status == ES_OK) return model;
    fprintf(stderr, "update: %s is refused: %s\n", path, es_last_error());
    es_close(model);
    return NULL;
}

/* ---- install, back ----------------------------------------------------------------------------------------------- */

static int install(const char *state, const char *bundle, const es_options *options) {
    char path[SLOTS_PATH];
    es_model *model;
    int old, slot;
    if (!slots_lock(state) || (old = slots_current(state)) == -2) return FAILED;
    slot = old == 0;
    if (!slots_join(path, state, slots_names[slot]) || !slots_apart(bundle, path) || !slots_remove(path)) return FAILED;
    if (!slots_copy(bundle, path)) {
        slots_remove(path);
        return FAILED;
    }
    model = prove(path, options);
    if (!model) {
        slots_remove(path);
        if (old >= 0) printf("%s stays in service\n", slots_names[old]);
        return KEPT_OLD;
    }
    es_close(model);
    if (!slots_flush(state) || !slots_switch(state, slot)) return FAILED;
    printf("%s is in service\n", slots_names[slot]);
    return DONE;
}

static int back(const char *state, const es_options *options) {
    char path[SLOTS_PATH];
    es_model *model;
    int old;
    if (!slots_lock(state) || (old = slots_current(state)) == -2) return FAILED;
    if (old == -1) return slots_refuse("no way back", state, "nothing is in service", "install a bundle"), FAILED;
    if (!slots_join(path, state, slots_names[old == 0])) return FAILED;
    model = prove(path, options);
    if (!model) return KEPT_OLD;
    es_close(model);
    if (!slots_switch(state, old == 0)) return FAILED;
    printf("%s is in service\n", slots_names[old == 0]);
    return DONE;
}

/* ---- serve ------------------------------------------------------------------------------------------------------- */

typedef struct served {
    es_model *model;
    int users; /* calls that run */
} served;

typedef struct service {
    pthread_mutex_t lock; /* held to read or exchange the pointer, never during a call */
    served *now;
    int stop;
    long answered, refused;
} service;

static volatile sig_atomic_t stop_asked, look_asked;

static void on_signal(int number) {
    if (number == SIGHUP)
        look_asked = 1;
    else
        stop_asked = 1;
}

static served *take(service *all) {
    served *mine;
    pthread_mutex_lock(&all->lock);
    mine = all->now;
    ++mine->users;
    pthread_mutex_unlock(&all->lock);
    return mine;
}

static void close_served(served *old) {
    es_close(old->model);
    free(old);
}

static void give(service *all, served *mine) {
    int last;
    pthread_mutex_lock(&all->lock);
    last = --mine->users == 0 && mine != all->now;
    pthread_mutex_unlock(&all->lock);
    if (last) close_served(mine);
}

/* The new model answers from the next call on. */
static void exchange(service *all, served *fresh) {
    served *old;
    int idle;
    pthread_mutex_lock(&all->lock);
    old = all->now;
    all->now = fresh;
    idle = old && old->users == 0;
    pthread_mutex_unlock(&all->lock);
    if (idle) close_served(old);
}

/* A brown disc with a texture on skin: sharp, well lit, nothing that the quality gate refuses. */
enum { SIDE = 512 };

static void draw(uint8_t *pixels) {
    uint32_t noise = 1;
    int x, y, c;
    for (y = 0; y < SIDE; ++y)
        for (x = 0; x < SIDE; ++x)
            for (c = 0; c < 3; ++c) {
                static const int skin[3] = {212, 168, 148}, mole[3] = {112, 72, 52};
                const int dx = x - SIDE / 2, dy = y - SIDE / 2, inside = dx * dx + dy * dy < SIDE * SIDE / 16;
                const int line = (x / 8 + y / 8) % 2 ? 14 : -14;
                noise = noise * 1664525u + 1013904223u;
                pixels[3 * (y * SIDE + x) + c] =
                    (uint8_t)((inside ? mole[c] + line : skin[c] + line / 2) + (int)(noise >> 28) - 8);
            }
}

static void *answer(void *context) {
    service *all = (service *)context;
    static uint8_t pixels[3 * SIDE * SIDE];
    es_image image;
    int stop = 0;
    draw(pixels);
    ES_INIT(image);
    image.format = ES_RGB;
    image.width = image.height = SIDE;
    image.pixels = pixels;
    while (!stop) {
        served *mine = take(all);
        es_result result;
        es_status status;
        ES_INIT(result);
        status = es_classify(mine->model, NULL, &image, &result);
        if (status != ES_OK) fprintf(stderr, "update: %s\n", es_last_error());
        give(all, mine);
        pthread_mutex_lock(&all->lock);
        if (status == ES_OK)
            ++all->answered;
        else
            ++all->refused;
        stop = all->stop;
        pthread_mutex_unlock(&all->lock);
    }
    return NULL;
}

/* What tells one `current` from the next, even if both lead to the same slot: the link itself is another. */
typedef struct mark {
    ino_t number;
    struct timespec changed;
} mark;

static int look(const char *current, mark *found) {
    struct stat link;
    memset(found, 0, sizeof *found);
    if (lstat(current, &link) != 0) return 0;
    found->number = link.st_ino;
    found->changed = link.st_ctim;
    return 1;
}

static int same(const mark *a, const mark *b) {
    return a->number == b->number && a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec;
}

/* Open what `current` leads to and put it into service; the old one answers meanwhile, and on if this fails. */
static int renew(service *all, const char *current, const es_options *options) {
    es_model_info info;
    served *fresh = (served *)calloc(1, sizeof *fresh);
    if (!fresh) return 0;
    fresh->model = prove(current, options);
    ES_INIT(info);
    if (!fresh->model || es_info(fresh->model, &info) != ES_OK) {
        free(fresh);
        return 0;
    }
    printf("serving %s, manifest %.12s, %s\n", info.name, info.sha256, info.backend);
    fflush(stdout);
    exchange(all, fresh);
    return 1;
}

static int serve(const char *state, const es_options *options) {
    const struct timespec turn = {0, 100 * 1000 * 1000};
    char current[SLOTS_PATH];
    service all = {PTHREAD_MUTEX_INITIALIZER, NULL, 0, 0, 0};
    mark seen, found;
    pthread_t thread;
    if (!slots_join(current, state, "current")) return FAILED;
    do { /* an update may have gone on while the first one was opened */
        if (!look(current, &seen)) return slots_failed("nothing is in service", current), FAILED;
        if (renew(&all, current, options)) break;
    } while (look(current, &found) && !same(&seen, &found));
    if (!all.now) return FAILED;
    if (pthread_create(&thread, NULL, answer, &all) != 0) {
        fprintf(stderr, "update: no thread could be started\n");
        close_served(all.now);
        return FAILED;
    }
    while (!stop_asked) {
        nanosleep(&turn, NULL); /* a signal ends it early */
        if (!look(current, &found) || (same(&seen, &found) && !look_asked)) continue;
        look_asked = 0;
        seen = found; /* noted before it is opened: a change meanwhile is seen at the next turn */
        if (!renew(&all, current, options)) {
            printf("the old bundle stays in service\n");
            fflush(stdout);
        }
    }
    pthread_mutex_lock(&all.lock);
    all.stop = 1;
    pthread_mutex_unlock(&all.lock);
    pthread_join(thread, NULL);
    printf("answered %ld, refused %ld\n", all.answered, all.refused);
    close_served(all.now);
    return all.refused ? FAILED : DONE;
}

/* ---- The program ------------------------------------------------------------------------------------------------- */

static const char *from_environment(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* 64 hexadecimal digits -> 32 bytes. */
static int read_key(const char *digits, uint8_t key[32]) {
    size_t i;
    if (strlen(digits) != 64 || strspn(digits, "0123456789abcdefABCDEF") != 64) return 0;
    for (i = 0; i < 32; ++i) {
        const char pair[3] = {digits[2 * i], digits[2 * i + 1], '\0'};
        key[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return 1;
}

int main(int argc, char **argv) {
    const char *key_digits = from_environment("EDGESKIN_KEY"), *words[3] = {NULL, NULL, NULL};
    struct sigaction action;
    es_options options;
    uint8_t key[32];
    int i, count = 0;
    if (!ES_LIBRARY_FITS()) {
        fprintf(stderr,
                "update: another libedgeskin, %s; fix: install the one of the header this was compiled against\n",
                es_version());
        return FAILED;
    }
    ES_INIT(options);
    options.backend_path = from_environment("EDGESKIN_BACKEND_PATH");
    for (i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--backend-path") == 0 && i + 1 < argc)
            options.backend_path = argv[++i];
        else if (strcmp(argv[i], "--key") == 0 && i + 1 < argc)
            key_digits = argv[++i];
        else if (argv[i][0] == '-' || count >= 3)
            count = 4; /* the usage below */
        else
            words[count++] = argv[i];
    }
    if (key_digits) {
        if (!read_key(key_digits, key)) {
            fprintf(stderr, "update: no public key; got: %s; possible: 64 hexadecimal digits; fix: --key HEX\n",
                    key_digits);
            return FAILED;
        }
        options.public_key = key;
    }
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    if (count == 3 && strcmp(words[0], "install") == 0) return install(words[1], words[2], &options);
    if (count == 2 && strcmp(words[0], "back") == 0) return back(words[1], &options);
    if (count == 2 && strcmp(words[0], "serve") == 0) {
        sigaction(SIGHUP, &action, NULL);
        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);
        return serve(words[1], &options);
    }
    fputs(usage, stderr);
    return FAILED;
}
