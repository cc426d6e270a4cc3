// Even division of all tiles of all groups that must be read.
//
// The tiles of a group are those of its prefix, 0..boundary, then those of its tail, boundary..length. Groups follow
// each other, and every block takes an equal run of this sequence, whatever group it starts or ends in. A run is
// never longer than a group (there are at least as many blocks as groups), so it touches at most four spans.
#pragma once

#include "tile.cuh"

struct Span {
    int begin, end;  // tokens
};

// A tile by its group (place in the list) and its place in the group.
struct TileAt {
    int group, tile;
};

struct Split {
    int length, boundary;     // tokens; end of the prefix
    int prefix_tiles, tiles;  // of one group
    int total, blocks;        // tiles; blocks with work
    int run, longer;          // tiles of a block; the first `longer` blocks have one more
    static constexpr int kSpansPerBlock = 4;

    __host__ __device__ Split(int length, int boundary, int groups, int max_blocks) : length(length), boundary(boundary) {
        prefix_tiles = (boundary + kTileTokens - 1) / kTileTokens;
        tiles = prefix_tiles + (length - boundary + kTileTokens - 1) / kTileTokens;
        total = groups * tiles;
        blocks = min(max_blocks, total);  // none if nothing is read
        run = total / max(blocks, 1);
        longer = total - run * blocks;
    }
    // First tile of a block; the end of its run is the start of the next.
    __host__ __device__ int start(int block) const { return block * run + min(block, longer); }
    // The block that reads a tile.
    __host__ __device__ int owner(int tile) const {
        const int rest = tile - longer * (run + 1);
        return rest < 0 ? tile / (run + 1) : longer + rest / run;
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
        return tile_in_group < prefix_tiles ? Span{tile_in_group * kTileTokens, boundary}
                                            : Span{boundary + (tile_in_group - prefix_tiles) * kTileTokens, length};
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
            sum += min(first.end - first.begin, (next - tile) * kTileTokens);
            tile = next;
        }
        return sum;
    }
    // Scratch row where a block leaves its part of a span: no two of the four spans it can touch share one.
    __host__ __device__ static int scratch(int block, int span) { return block * kSpansPerBlock + span % kSpansPerBlock; }
};
