// Even division of all tiles of all groups that must be read.
//
// The tiles of a group are those of its prefix, 0..boundary, then those of its tail, boundary..length. Groups follow
// each other, and every block takes an equal run of this sequence, whatever group it starts or ends in. A run is
// never longer than a group (there are at least as many blocks as groups), so it touches at most four spans.
//
// Ending a span costs a block about as much time as reading kSpanCost tiles, so each span counts as many cells more than it has
// tiles (fewer where runs are short), and runs are equal in cells.
#pragma once

#include "tile.cuh"

struct Span {
    int begin, end;  // tokens
};

// A tile by its group (place in the list) and its place in the group.
struct TileAt {
    int group, tile;
};

constexpr int kSpanCost = 4;

struct Split {
    int length, boundary;     // tokens; end of the prefix
    int tile_tokens;
    int prefix_tiles, tiles;  // of one group
    int cost;                 // of a span, in cells beside its tiles
    int blocks;               // that have work
    int run, longer;          // cells of a block; the first `longer` blocks have one more
    static constexpr int kSpansPerBlock = 4;

    __host__ __device__ Split(int length, int boundary, int groups, int max_blocks, int tile_tokens)
        : length(length), boundary(boundary), tile_tokens(tile_tokens) {
        prefix_tiles = (boundary + tile_tokens - 1) / tile_tokens;
        tiles = prefix_tiles + (length - boundary + tile_tokens - 1) / tile_tokens;
        // Every run must hold a tile, so it must be longer than what lies between two spans.
        cost = min(kSpanCost, groups * tiles / (4 * max_blocks));
        blocks = min(max_blocks, groups * tiles);  // none if nothing is read
        run = groups * cells() / max(blocks, 1);
        longer = groups * cells() - run * blocks;
    }
    // Cells of one group's prefix, and of the group.
    __host__ __device__ int prefix_cells() const { return prefix_tiles > 0 ? prefix_tiles + cost : 0; }
    __host__ __device__ int cells() const { return prefix_cells() + (tiles > prefix_tiles ? tiles - prefix_tiles + cost : 0); }
    // First tile of a block; the end of its run is the start of the next.
    __host__ __device__ int start(int block) const {
        const int cell = block * run + min(block, longer), group = cell / cells(), rest = cell - group * cells();
        return group * tiles + (rest < prefix_cells() ? min(rest, prefix_tiles) : min(prefix_tiles + rest - prefix_cells(), tiles));
    }
    // The block that reads a tile.
    __host__ __device__ int owner(int tile) const {
        const TileAt where = at(tile);
        const int cell = where.group * cells() + where.tile + (where.tile < prefix_tiles ? 0 : prefix_cells() - prefix_tiles);
        const int rest = cell - longer * (run + 1);
        return rest < 0 ? cell / (run + 1) : longer + rest / run;
    }

    __host__ __device__ TileAt at(int tile) const { return {tile / tiles, tile % tiles}; }
    // The tile `count` further on.
    __host__ __device__ TileAt advance(TileAt at, int count) const {
        at.tile += count;
        while (at.tile >= tiles) at.tile -= tiles, ++at.group;
        return at;
    }
    // Tokens of a tile up to the end of its span.
    __host__ __device__ Span tokens(int tile_in_group) const {
        return tile_in_group < prefix_tiles ? Span{tile_in_group * tile_tokens, boundary}
                                            : Span{boundary + (tile_in_group - prefix_tiles) * tile_tokens, length};
    }

    // Spans are numbered 2 * group (prefix) and 2 * group + 1 (tail).
    __host__ __device__ int span_of(int tile) const {
        const TileAt where = at(tile);
        return 2 * where.group + (where.tile >= prefix_tiles);
    }
    __host__ __device__ int span_begin(int span) const { return span / 2 * tiles + (span % 2 ? prefix_tiles : 0); }
    __host__ __device__ int span_end(int span) const { return span / 2 * tiles + (span % 2 ? tiles : prefix_tiles); }
    // Tokens that a run of tiles holds.
    __host__ __device__ int tokens_between(int begin, int end) const {
        int sum = 0;
        for (int tile = begin; tile < end;) {
            const Span first = tokens(at(tile).tile);
            const int next = min(end, span_end(span_of(tile)));
            sum += min(first.end - first.begin, (next - tile) * tile_tokens);
            tile = next;
        }
        return sum;
    }
    // Scratch row where a block leaves its part of a span: no two of the four spans it can touch share one.
    __host__ __device__ static int scratch(int block, int span) { return block * kSpansPerBlock + span % kSpansPerBlock; }
};
