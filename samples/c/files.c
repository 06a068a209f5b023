#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

#define PART ((size_t)1 << 16)

char *ab_path(const char *folder, const char *name) {
    size_t size = strlen(folder) + strlen(name) + 2;
    char *path = malloc(size);
    if (path != NULL) snprintf(path, size, "%s/%s", folder, name);
    return path;
}

bool ab_exists(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 || errno != ENOENT;
}

static adabet_code open_file(const char *path, FILE **file, adabet_error *error) {
    struct stat status;
    *file = NULL;
    int number = open(path, O_RDONLY | O_NONBLOCK); /* do not block on a pipe; it is rejected below */
    if (number < 0) return ab_fail(error, ADABET_WRONG_FILE, "%s cannot be read: %s", path, strerror(errno));
    if (fstat(number, &status) != 0 || !S_ISREG(status.st_mode)) {
        close(number);
        return ab_fail(error, ADABET_WRONG_FILE, "%s is not a file", path);
    }
    *file = fdopen(number, "rb");
    if (*file == NULL) {
        close(number);
        return ab_no_memory(error);
    }
    return ADABET_OK;
}

adabet_code ab_read(const char *path, size_t most, char **data, size_t *bytes, adabet_error *error) {
    FILE *file;
    struct stat status;
    *data = NULL;
    AB_TRY(open_file(path, &file, error));
    adabet_code code = ADABET_OK;
    if (fstat(fileno(file), &status) != 0 || (uint64_t)status.st_size > most) {
        code = ab_fail(error, ADABET_WRONG_FILE, "%s has %llu bytes; expected at most %zu", path,
                       (unsigned long long)status.st_size, most);
    } else if ((*data = ab_room((size_t)status.st_size + 1)) == NULL) {
        code = ab_no_memory(error);
    } else {
        *bytes = (size_t)status.st_size;
        (*data)[*bytes] = 0;
        if (fread(*data, 1, *bytes, file) != *bytes) {
            code = ab_fail(error, ADABET_WRONG_FILE, "%s cannot be read to its end", path);
            free(*data);
            *data = NULL;
        }
    }
    fclose(file);
    return code;
}

adabet_code ab_hash_file(const char *path, uint64_t *bytes, char hex[SHA256_HEX], adabet_error *error) {
    FILE *file;
    sha256 hash;
    size_t got;
    AB_TRY(open_file(path, &file, error));
    unsigned char *part = malloc(PART);
    if (part == NULL) {
        fclose(file);
        return ab_no_memory(error);
    }
    ab_sha256_begin(&hash);
    while ((got = fread(part, 1, PART, file)) > 0) ab_sha256_add(&hash, part, got);
    bool broken = ferror(file) != 0;
    free(part);
    fclose(file);
    *bytes = hash.bytes;
    ab_sha256_end(&hash, hex);
    return broken ? ab_fail(error, ADABET_WRONG_FILE, "%s cannot be read to its end", path) : ADABET_OK;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static adabet_code refused(ab_writer *writer, int problem, adabet_error *error) {
    adabet_code code = ab_fail(error, problem == ENOMEM ? ADABET_NO_MEMORY : ADABET_STORAGE, "%s cannot be written: %s",
                               writer->path, strerror(problem));
    ab_write_drop(writer);
    return code;
}

adabet_code ab_write_begin(ab_writer *writer, const char *path, adabet_error *error) {
    size_t size = strlen(path) + sizeof ".partial";
    memset(writer, 0, sizeof *writer);
    writer->path = malloc(size);
    writer->beside = malloc(size);
    if (writer->path == NULL || writer->beside == NULL) {
        ab_write_drop(writer);
        return ab_no_memory(error);
    }
    snprintf(writer->path, size, "%s", path);
    snprintf(writer->beside, size, "%s.partial", path);
    writer->file = fopen(writer->beside, "wb");
    return writer->file == NULL ? refused(writer, errno, error) : ADABET_OK;
}

void ab_write(ab_writer *writer, const void *data, size_t bytes) {
    errno = 0;
    if (writer->problem == 0 && fwrite(data, 1, bytes, writer->file) != bytes)
        writer->problem = errno != 0 ? errno : EIO;
}

/* Flushes the folder, so that the new name is on the disk too. File systems that do not support this are ignored. */
static void sync_folder(char *path) {
    char *slash = strrchr(path, '/');
    if (slash != NULL) slash[slash == path ? 1 : 0] = 0;
    int folder = open(slash != NULL ? path : ".", O_RDONLY);
    if (folder >= 0) {
        (void)fsync(folder);
        close(folder);
    }
}

adabet_code ab_write_end(ab_writer *writer, adabet_error *error) {
    FILE *file = writer->file;
    if (writer->problem == 0 && (fflush(file) != 0 || fsync(fileno(file)) != 0)) writer->problem = errno;
    writer->file = NULL;
    if (fclose(file) != 0 && writer->problem == 0) writer->problem = errno;
    if (writer->problem == 0 && rename(writer->beside, writer->path) != 0) writer->problem = errno;
    if (writer->problem != 0) {
        (void)unlink(writer->beside);
        return refused(writer, writer->problem, error);
    }
    sync_folder(writer->path);
    ab_write_drop(writer);
    return ADABET_OK;
}

void ab_write_drop(ab_writer *writer) {
    if (writer->file != NULL) {
        fclose(writer->file);
        (void)unlink(writer->beside);
    }
    free(writer->path);
    free(writer->beside);
    memset(writer, 0, sizeof *writer);
}
