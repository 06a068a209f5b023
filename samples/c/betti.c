/* See betti.h for the interface, and adabet_onnx/scoring/betti.py for why this is correct.
 *
 * For each pair of points, a set of bits says which points are nearer to both than they are to each other. A pair is
 * free in a subset if the subset contains none of these points, so that it is not the only longest edge of any
 * triangle. The Betti number is
 *
 *     free pairs - (points - 1) - rank mod 2 of the triangles with two or three equal longest edges, over free pairs.
 *
 * Another set of bits says with which points a pair forms such triangles; there are none if all lengths differ.
 */
#include "betti.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct betti_loops {
    size_t given;     /* points of the matrix */
    size_t points;    /* without duplicates; the fields below refer to these */
    size_t words;     /* in a set of points */
    size_t *place;    /* index of each given point among those kept */
    float *lengths;   /* points x points */
    uint64_t *nearer; /* for each pair, the points nearer to both */
    uint64_t *level;  /* for each pair, the points whose larger distance equals its length */
    int any_level;    /* whether any pair has such a point */
};

typedef struct {
    uint16_t low, high;
} edge;

/* Working memory. A sum is a set of pairs in descending order. The basis is in echelon form: its sums are stored in the
 * pool one after another, each preceded by its length, and all have different first pairs. */
typedef struct {
    uint64_t *inside;         /* the subset */
    uint16_t *members;        /* the same, as a list */
    edge *free_edges;         /* of the subset, in the order of their pairs */
    unsigned char *is_free;   /* for each pair of the subset */
    size_t *first;            /* for each pair, the pool index of the sum that starts with it, or 0 */
    uint32_t *sum, *next;     /* the sum being reduced, and the result of a step */
    uint32_t *pool;
    size_t used, room;        /* of the pool */
} scratch;

const char *betti_message(betti_status status) {
    switch (status) {
        case BETTI_OK: return "no error";
        case BETTI_NO_MEMORY: return "there is not enough memory";
        case BETTI_TOO_MANY_POINTS: return "there are more points than BETTI_MOST_POINTS";
        case BETTI_NOT_A_NUMBER: return "a distance is not a number (NaN)";
        case BETTI_NEGATIVE: return "a distance is negative";
        case BETTI_ASYMMETRIC: return "the matrix of distances is not symmetric";
        case BETTI_DIAGONAL: return "the distance of a point to itself is not 0";
        case BETTI_NO_SUCH_POINT: return "a subset has an index that is not below the number of points";
    }
    return "no status of betti.h";
}

static void *zeros(size_t count, size_t size) { return calloc(count > 0 ? count : 1, size); }

/* Round to the nearest float; in C, casting a value out of range is undefined. */
static float rounded(double length) {
    if (length >= 0x1.ffffffp127) return HUGE_VALF;
    return length > (double)FLT_MAX ? FLT_MAX : (float)length;
}

/* Index of the pair of two different points among all pairs. */
static size_t pair(size_t a, size_t b) { return a < b ? b * (b - 1) / 2 + a : a * (a - 1) / 2 + b; }

static size_t pairs(size_t points) { return points > 0 ? points * (points - 1) / 2 : 0; }

static betti_status entry_status(const double *distance, size_t points, size_t i, size_t j) {
    double there = distance[i * points + j];
    if (isnan(there)) return BETTI_NOT_A_NUMBER;
    if (there < 0) return BETTI_NEGATIVE;
    if (i == j) return there > 0 ? BETTI_DIAGONAL : BETTI_OK;
    /* The entry on the other side of the diagonal has been checked. */
    return j < i && rounded(there) != rounded(distance[j * points + i]) ? BETTI_ASYMMETRIC : BETTI_OK;
}

betti_status betti_check(const double *distance, size_t points, size_t *row, size_t *column) {
    if (points > BETTI_MOST_POINTS) return BETTI_TOO_MANY_POINTS;
    for (size_t i = 0; i < points; i++) {
        for (size_t j = 0; j < points; j++) {
            betti_status status = entry_status(distance, points, i, j);
            if (status != BETTI_OK) {
                if (row != NULL) *row = i;
                if (column != NULL) *column = j;
                return status;
            }
        }
    }
    return BETTI_OK;
}

static int same_row(const float *lengths, size_t points, size_t a, size_t b) {
    for (size_t k = 0; k < points; k++) {
        if (lengths[a * points + k] != lengths[b * points + k]) return 0;
    }
    return 1;
}

/* Drops points at distance 0 from an earlier one that has the same distances to all others. Such duplicates add no
 * loops: at every length they are connected to the same points. */
static betti_status leave_out_twins(betti_loops *loops) {
    size_t points = loops->given, kept = 0;
    size_t *origin = zeros(points, sizeof *origin);
    if (origin == NULL) return BETTI_NO_MEMORY;
    for (size_t i = 0; i < points; i++) {
        size_t twin = 0;
        while (twin < kept && (loops->lengths[i * points + origin[twin]] > 0 ||
                               !same_row(loops->lengths, points, i, origin[twin]))) {
            twin++;
        }
        if (twin == kept) origin[kept++] = i;
        loops->place[i] = twin;
    }
    for (size_t i = 0; i < kept; i++) { /* writes stay behind the reads */
        for (size_t j = 0; j < kept; j++) {
            loops->lengths[i * kept + j] = loops->lengths[origin[i] * points + origin[j]];
        }
    }
    loops->points = kept;
    free(origin);
    return BETTI_OK;
}

/* Fill the sets of the pair (i, j). */
static void fill_sets(betti_loops *loops, size_t i, size_t j) {
    size_t points = loops->points, at = pair(i, j) * loops->words;
    const float *from_i = loops->lengths + i * points, *from_j = loops->lengths + j * points;
    float length = from_i[j];
    for (size_t start = 0; start < points; start += 64, at++) {
        size_t count = points - start < 64 ? points - start : 64;
        uint64_t below = 0, upto = 0;
        for (size_t k = 0; k < count; k++) {
            float a = from_i[start + k], b = from_j[start + k];
            float farther = a > b ? a : b;
            below |= (uint64_t)(farther < length) << k;
            upto |= (uint64_t)(farther <= length) << k;
        }
        if (i - start < 64) upto &= ~((uint64_t)1 << (i - start)); /* for i below start the difference is huge */
        if (j - start < 64) upto &= ~((uint64_t)1 << (j - start));
        loops->nearer[at] = below;
        loops->level[at] = upto & ~below;
        loops->any_level |= loops->level[at] != 0;
    }
}

static betti_status prepare(betti_loops *loops, const double *distance) {
    size_t given = loops->given;
    loops->place = zeros(given, sizeof *loops->place);
    loops->lengths = zeros(given * given, sizeof *loops->lengths);
    if (loops->place == NULL || loops->lengths == NULL) return BETTI_NO_MEMORY;
    for (size_t k = 0; k < given * given; k++) loops->lengths[k] = rounded(distance[k]);
    betti_status status = leave_out_twins(loops);
    if (status != BETTI_OK) return status;

    size_t points = loops->points;
    loops->words = (points + 63) / 64;
    loops->nearer = zeros(pairs(points), loops->words * sizeof *loops->nearer);
    loops->level = zeros(pairs(points), loops->words * sizeof *loops->level);
    if (loops->nearer == NULL || loops->level == NULL) return BETTI_NO_MEMORY;
    for (size_t j = 1; j < points; j++) {
        for (size_t i = 0; i < j; i++) fill_sets(loops, i, j);
    }
    return BETTI_OK;
}

betti_status betti_new(const double *distance, size_t points, betti_loops **made) {
    *made = NULL;
    betti_status status = betti_check(distance, points, NULL, NULL);
    if (status != BETTI_OK) return status;
    betti_loops *loops = zeros(1, sizeof *loops);
    if (loops == NULL) return BETTI_NO_MEMORY;
    loops->given = points;
    status = prepare(loops, distance);
    if (status != BETTI_OK) {
        betti_free(loops);
        return status;
    }
    *made = loops;
    return BETTI_OK;
}

void betti_free(betti_loops *loops) {
    if (loops == NULL) return;
    free(loops->place);
    free(loops->lengths);
    free(loops->nearer);
    free(loops->level);
    free(loops);
}

static unsigned char is_free(const betti_loops *loops, const uint64_t *inside, size_t at) {
    const uint64_t *nearer = loops->nearer + at * loops->words;
    uint64_t blocked = 0;
    for (size_t word = 0; word < loops->words; word++) blocked |= nearer[word] & inside[word];
    return blocked == 0;
}

static int is_inside(const uint64_t *inside, size_t point) { return (int)(inside[point / 64] >> (point % 64) & 1); }

/* Adds two sums; returns the size of the result. */
static size_t add_sums(const uint32_t *a, size_t a_size, const uint32_t *b, size_t b_size, uint32_t *result) {
    size_t i = 0, j = 0, size = 0;
    while (i < a_size && j < b_size) {
        if (a[i] == b[j]) {
            i++;
            j++;
        } else {
            result[size++] = a[i] > b[j] ? a[i++] : b[j++];
        }
    }
    while (i < a_size) result[size++] = a[i++];
    while (j < b_size) result[size++] = b[j++];
    return size;
}

static betti_status keep_sum(scratch *s, size_t size) {
    if (s->room - s->used < size + 1) {
        size_t room = 2 * s->room + size + 1;
        if (room > SIZE_MAX / sizeof *s->pool) return BETTI_NO_MEMORY;
        uint32_t *pool = realloc(s->pool, room * sizeof *s->pool);
        if (pool == NULL) return BETTI_NO_MEMORY;
        s->pool = pool;
        s->room = room;
    }
    s->first[s->sum[0]] = s->used + 1;
    s->pool[s->used++] = (uint32_t)size;
    memcpy(s->pool + s->used, s->sum, size * sizeof *s->sum);
    s->used += size;
    return BETTI_OK;
}

/* Adds the sum in s->sum to the basis, and 1 to the rank, unless it depends on the basis. */
static betti_status extend_basis(scratch *s, size_t size, size_t *rank) {
    while (size > 0) {
        size_t there = s->first[s->sum[0]];
        if (there == 0) {
            ++*rank;
            return keep_sum(s, size);
        }
        size = add_sums(s->sum, size, s->pool + there, s->pool[there - 1], s->next);
        uint32_t *done = s->sum;
        s->sum = s->next;
        s->next = done;
    }
    return BETTI_OK;
}

static void clear_basis(scratch *s) {
    for (size_t k = 0; k < s->used; k += s->pool[k] + 1) s->first[s->pool[k + 1]] = 0;
    s->used = 0;
}

/* Adds the triangle of a free edge and a third point, one or both of whose other edges are equally long. Each triangle
 * is counted only at its last free edge. */
static betti_status add_triangle(const betti_loops *loops, scratch *s, edge base, size_t third, size_t *rank) {
    const float *from_third = loops->lengths + third * loops->points;
    size_t ends[2] = {base.low, base.high}, size = 1;
    float length = loops->lengths[ends[0] * loops->points + ends[1]];
    size_t last = pair(ends[0], ends[1]);
    s->sum[0] = (uint32_t)last;
    for (size_t k = 0; k < 2; k++) {
        size_t other = pair(ends[k], third);
        if (from_third[ends[k]] < length || !s->is_free[other]) continue;
        if (other > last) return BETTI_OK;
        s->sum[size++] = (uint32_t)other;
    }
    if (size == 3 && s->sum[1] < s->sum[2]) {
        uint32_t lower = s->sum[1];
        s->sum[1] = s->sum[2];
        s->sum[2] = lower;
    }
    return extend_basis(s, size, rank);
}

/* Adds the triangles of a free edge with the level points: up to the first that starts a sum of the basis, or all. */
static betti_status add_triangles(const betti_loops *loops, scratch *s, edge base, int all, size_t most, size_t *rank) {
    size_t at = pair(base.low, base.high);
    for (size_t word = 0; word < loops->words; word++) {
        uint64_t left = loops->level[at * loops->words + word] & s->inside[word];
        for (size_t third = 64 * word; left != 0; left >>= 1, third++) {
            if (*rank == most || (!all && s->first[at] != 0)) return BETTI_OK;
            betti_status status = (left & 1) != 0 ? add_triangle(loops, s, base, third, rank) : BETTI_OK;
            if (status != BETTI_OK) return status;
        }
    }
    return BETTI_OK;
}

/* The rank of the triangles with two or three equal longest edges in the subset. It cannot exceed most; usually one
 * triangle per edge reaches that, and nothing needs to be reduced. */
static betti_status rank_of_triangles(const betti_loops *loops, scratch *s, size_t edges, size_t most, size_t *rank) {
    betti_status status = BETTI_OK;
    for (int all = 0; all < 2 && loops->any_level; all++) {
        for (size_t k = 0; k < edges && status == BETTI_OK; k++) {
            status = add_triangles(loops, s, s->free_edges[k], all, most, rank);
        }
    }
    return status;
}

/* Reads a subset into s; *count becomes its number of different points. */
static betti_status read_subset(const betti_loops *loops, scratch *s, const size_t *subset, size_t size,
                                size_t *count) {
    memset(s->inside, 0, loops->words * sizeof *s->inside);
    for (size_t k = 0; k < size; k++) {
        if (subset[k] >= loops->given) return BETTI_NO_SUCH_POINT;
        size_t point = loops->place[subset[k]];
        s->inside[point / 64] |= (uint64_t)1 << (point % 64);
    }
    *count = 0;
    for (size_t point = 0; point < loops->points; point++) {
        if (is_inside(s->inside, point)) s->members[(*count)++] = (uint16_t)point;
    }
    return BETTI_OK;
}

static betti_status count_one(const betti_loops *loops, scratch *s, const size_t *subset, size_t size, size_t *number) {
    size_t count, free_count = 0, rank = 0;
    betti_status status = read_subset(loops, s, subset, size, &count);
    if (status != BETTI_OK) return status;
    for (size_t b = 1; b < count; b++) {
        for (size_t a = 0; a < b; a++) {
            edge here = {s->members[a], s->members[b]};
            size_t at = pair(here.low, here.high);
            s->is_free[at] = is_free(loops, s->inside, at);
            if (s->is_free[at]) s->free_edges[free_count++] = here;
        }
    }
    size_t most = count > 0 ? free_count - (count - 1) : 0; /* the free edges connect all points */
    status = rank_of_triangles(loops, s, free_count, most, &rank);
    clear_basis(s);
    *number = most - rank;
    return status;
}

static betti_status make_scratch(const betti_loops *loops, scratch *s) {
    size_t edges = pairs(loops->points);
    s->inside = zeros(loops->words, sizeof *s->inside);
    s->members = zeros(loops->points, sizeof *s->members);
    s->free_edges = zeros(edges, sizeof *s->free_edges);
    s->is_free = zeros(edges, sizeof *s->is_free);
    s->first = zeros(edges, sizeof *s->first);
    s->sum = zeros(edges, sizeof *s->sum);
    s->next = zeros(edges, sizeof *s->next);
    int made = s->inside != NULL && s->members != NULL && s->free_edges != NULL && s->is_free != NULL;
    made = made && s->first != NULL && s->sum != NULL && s->next != NULL;
    return made ? BETTI_OK : BETTI_NO_MEMORY;
}

static void free_scratch(scratch *s) {
    free(s->inside);
    free(s->members);
    free(s->free_edges);
    free(s->is_free);
    free(s->first);
    free(s->sum);
    free(s->next);
    free(s->pool);
}

betti_status betti_count(const betti_loops *loops, const size_t *subsets, size_t count, size_t size, size_t *numbers) {
    scratch s = {0};
    betti_status status = make_scratch(loops, &s);
    for (size_t k = 0; k < count && status == BETTI_OK; k++) {
        status = count_one(loops, &s, subsets + k * size, size, numbers + k);
    }
    free_scratch(&s);
    return status;
}

betti_status betti_number(const double *distance, size_t points, size_t *number) {
    betti_loops *loops;
    betti_status status = betti_new(distance, points, &loops);
    if (status != BETTI_OK) return status;
    size_t *every = zeros(points, sizeof *every);
    if (every == NULL) {
        betti_free(loops);
        return BETTI_NO_MEMORY;
    }
    for (size_t k = 0; k < points; k++) every[k] = k;
    status = betti_count(loops, every, 1, points, number);
    free(every);
    betti_free(loops);
    return status;
}
