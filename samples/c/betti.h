/* First Betti numbers: the number of loops that points form at some scale, computed from their distances.
 *
 * It is the number of dimension-1 bars with death > birth in the Vietoris-Rips persistence of the points, with
 * coefficients mod 2 and no threshold. It equals ripser's count exactly: distances are rounded to float and compared as
 * floats. adabet_onnx/scoring/betti.py explains why no persistence needs to be computed.
 *
 *     betti_loops *loops;
 *     size_t subsets[] = {0, 1, 2, 3, 0, 1, 2, 2}, numbers[2];
 *     double square[] = {0, 1, 2, 1, 1, 0, 1, 2, 2, 1, 0, 1, 1, 2, 1, 0};
 *     if (betti_new(square, 4, &loops) == BETTI_OK) {
 *         betti_count(loops, subsets, 2, 4, numbers);    numbers are 1 and 0
 *         betti_free(loops);
 *     }
 *
 * No state is kept between calls except what betti_new returns. Several threads can use a betti_loops at the same time.
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
    BETTI_ASYMMETRIC,      /* two points have different distances in the two directions, also as float */
    BETTI_DIAGONAL,        /* the distance of a point to itself is not 0 */
    BETTI_NO_SUCH_POINT    /* an index of a subset is not below the number of points */
} betti_status;

typedef struct betti_loops betti_loops;

/* A static English description of a status. */
const char *betti_message(betti_status status);

/* Checks a points x points matrix of distances, row by row. row and column (which may be NULL) receive the position of
 * an error. Distances may be infinite. */
betti_status betti_check(const double *distance, size_t points, size_t *row, size_t *column);

/* Prepares to count the loops of these points and of subsets of them. Distances are checked as by betti_check, and not
 * needed afterwards. On success, free *made with betti_free; otherwise it is NULL. */
betti_status betti_new(const double *distance, size_t points, betti_loops **made);

/* The Betti number of each subset. subsets holds count times size indices of points; a repeated point counts once.
 * numbers has room for count values. */
betti_status betti_count(const betti_loops *loops, const size_t *subsets, size_t count, size_t size, size_t *numbers);

/* loops may be NULL. */
void betti_free(betti_loops *loops);

/* The Betti number of all points of a matrix. */
betti_status betti_number(const double *distance, size_t points, size_t *number);

#ifdef __cplusplus
}
#endif
#endif
