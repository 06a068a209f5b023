/* First Betti numbers: how many loops points form at some scale, from the distances between them.
 *
 * The number is that of the dimension-1 bars with death > birth in the Vietoris-Rips persistence of the points, with
 * coefficients mod 2 and no threshold. It equals what the program ripser counts, to the integer: distances are rounded
 * to float and compared as such. Why it can be counted without persistence is written in
 * adabet_onnx/scoring/betti.py.
 *
 *     betti_loops *loops;
 *     size_t subsets[] = {0, 1, 2, 3, 0, 1, 2, 2}, numbers[2];
 *     double square[] = {0, 1, 2, 1, 1, 0, 1, 2, 2, 1, 0, 1, 1, 2, 1, 0};
 *     if (betti_new(square, 4, &loops) == BETTI_OK) {
 *         betti_count(loops, subsets, 2, 4, numbers);    numbers are 1 and 0
 *         betti_free(loops);
 *     }
 *
 * Nothing is kept between calls but what betti_new returns. One betti_loops can be used by several threads at once.
 */
#ifndef BETTI_H
#define BETTI_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BETTI_MOST_POINTS 16384

typedef enum {
    BETTI_OK = 0,
    BETTI_NO_MEMORY,       /* an allocation failed */
    BETTI_TOO_MANY_POINTS, /* more than BETTI_MOST_POINTS */
    BETTI_NOT_A_NUMBER,    /* a distance is NaN */
    BETTI_NEGATIVE,        /* a distance is below 0 */
    BETTI_ASYMMETRIC,      /* two points have two distances, also as float */
    BETTI_DIAGONAL,        /* the distance of a point to itself is not 0 */
    BETTI_NO_SUCH_POINT    /* an index of a subset is not below the number of points */
} betti_status;

typedef struct betti_loops betti_loops;

/* A sentence about a status, in English, static. */
const char *betti_message(betti_status status);

/* Says whether these are distances: points x points, row after row. Where they are not, row and column (which may be
 * NULL) say where. A distance may be infinite: it is longer than all others. */
betti_status betti_check(const double *distance, size_t points, size_t *row, size_t *column);

/* Prepares to count loops among these points and any of their subsets. Distances are checked as by betti_check, and not
 * needed afterwards. On success *made is to be freed with betti_free; else it is NULL. */
betti_status betti_new(const double *distance, size_t points, betti_loops **made);

/* The number of each subset. subsets holds count times size indices of points; a point that is given twice is one
 * point. numbers has room for count. */
betti_status betti_count(const betti_loops *loops, const size_t *subsets, size_t count, size_t size, size_t *numbers);

/* NULL may be given. */
void betti_free(betti_loops *loops);

/* The number of all points of one matrix, where no subset is asked for. */
betti_status betti_number(const double *distance, size_t points, size_t *number);

#ifdef __cplusplus
}
#endif
#endif
