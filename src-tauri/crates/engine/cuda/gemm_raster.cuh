// In which order tiles of C are computed: bands of a few tile rows, column by column within a band, so that the tiles under way
// at a time share rows of A and of W in L2.
#pragma once

__host__ __device__ constexpr int ceil_div(int x, int y) { return (x + y - 1) / y; }

struct TilePlace {
    int row, column;
};

// `band`: tile rows per band; the last one may have fewer.
__device__ inline TilePlace place_of(int index, int rows, int columns, int band) {
    const int first = index / (band * columns) * band;
    const int height = min(band, rows - first), within = index - first * columns;
    return {first + within % height, within / height};
}
