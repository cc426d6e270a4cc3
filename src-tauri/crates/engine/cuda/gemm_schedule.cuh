// Which part of which tile a cluster computes, in what order. Tiles that come out as whole rounds over the clusters are computed whole.
// What is left (up to two rounds) is cut into equal spans of steps along K, so that no multiprocessor waits for a last incomplete
// round: a tile may be begun by some clusters, which leave partial sums in the workspace, and finished by another.
#pragma once

#include "gemm_raster.cuh"

// Steps [begin, end) along K of one tile.
struct Segment {
    int tile, begin, end;
};

class Schedule {
public:
    // `steps`: along K, of every tile.
    __device__ Schedule(int tiles, int steps, int clusters, int cluster) : tiles_(tiles), steps_(steps), cluster_(cluster), stride_(clusters) {
        const int rounds = tiles / clusters, rest = tiles - rounds * clusters;
        // An incomplete round costs its idle share; cutting tiles costs passing sums. Below 1/16 the idle share is less.
        const bool cut = rest > 0 && (clusters - rest) * 16 > (rounds + 1) * clusters;
        cut_tiles_ = cut ? (rounds > 0 ? clusters + rest : rest) : 0;
        const int total = cut_tiles_ * steps;
        // Few steps per cluster are not worth a cut.
        sharers_ = min(clusters, max(cut_tiles_, total / kMinSteps));
        position_ = first_ = 0;
        if (cluster < sharers_) first_ = span_begin(cluster), position_ = span_begin(cluster + 1);
        whole_ = cut_tiles_ + cluster;
    }
    // Segments of the cluster's span come last first. So the tile that it only begins is done at once, and the tile that others
    // began is finished by the cluster that has waited longest; and clusters wait only for such with lower indices, which the
    // device starts earlier.
    __device__ bool next(Segment& segment) {
        if (position_ > first_) {
            const int tile = (position_ - 1) / steps_, begin = max(first_, tile * steps_);
            segment = {tile, begin - tile * steps_, position_ - tile * steps_};
            position_ = begin;
            return true;
        }
        if (whole_ >= tiles_) return false;
        segment = {whole_, 0, steps_};
        whole_ += stride_;
        return true;
    }
    __device__ bool finishes(const Segment& segment) const { return segment.end == steps_; }
    // How many clusters computed what is before segment.begin: the ones right before this cluster.
    __device__ int earlier_parts(const Segment& segment) const {
        const int tile_begin = segment.tile * steps_;
        int part = cluster_;
        while (span_begin(part) > tile_begin) --part;
        return cluster_ - part;
    }

private:
    static constexpr int kMinSteps = 4;
    __device__ int span_begin(int cluster) const {
        return static_cast<int>(static_cast<long long>(cut_tiles_) * steps_ * cluster / sharers_);
    }
    int tiles_, steps_, cluster_, stride_, cut_tiles_, sharers_, first_, position_, whole_;
};
