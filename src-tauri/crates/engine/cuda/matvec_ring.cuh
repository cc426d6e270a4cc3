// A warp's weights on their way: a ring of stages, each the same unit of two rows, filled by asynchronous copies from the warp's units of
// one product after another.
#pragma once

#include "matvec_share.cuh"

// Stages of a kernel's rings: of its type, or as large as any type needs.
template <int kType>
struct Stages {
    static constexpr int kBytes = stage_bytes<kType>(), kDepth = Unit<kType>::kDepth, kPlanes = Unit<kType>::kPlanes;
};
template <>
struct Stages<kMixed> {
    static constexpr int kBytes = stage_bytes<kQ6_K>(), kDepth = 5, kPlanes = 4;
};
template <int kType>
__host__ __device__ constexpr int ring_bytes() {
    return Stages<kType>::kBytes * Stages<kType>::kDepth;
}

// Place of one of a type's planes in a slot.
struct Plane {
    UnitPlane unit;
    int slot_bytes;
};
template <int kType>
__device__ Plane plane_of(int index) {
    return {Unit<kType>::plane(index), slot_bytes<kType>()};
}
__device__ inline Plane plane_of_block_type(int type, int index) {
    switch (type) {
        case kQ8_0: return plane_of<kQ8_0>(index);
        case kQ4_0: return plane_of<kQ4_0>(index);
        case kQ4_1: return plane_of<kQ4_1>(index);
        case kQ5_0: return plane_of<kQ5_0>(index);
        case kQ5_1: return plane_of<kQ5_1>(index);
        case kQ4_K: return plane_of<kQ4_K>(index);
        case kQ5_K: return plane_of<kQ5_K>(index);
        case kQ6_K: return plane_of<kQ6_K>(index);
        default: __trap();
    }
}

template <int kType>
class Ring {
    using S = Stages<kType>;
    const MatvecChain& chain_;
    const MatvecShared& shared_;
    const unsigned char* ring_;
    uint64_t policy_;
    uint32_t address_;
    int stage_ = 0, fill_ = 0;        // bytes into the ring: the stage to read, and to fill
    int next_ = 0;                    // the product to go on with
    int left_ = 0, in_pair_ = 0;      // units of the product, and of the pair, still to come
    int units_ = 0, pairs_left_ = 0;  // units of a row; pairs of the block from this one on
    bool lone_last_ = false;          // the last pair is one row

    // This lane's next 16 bytes of a plane.
    struct Stream {
        const unsigned char* from;  // of the first row
        int skip;                   // beyond a step, from the last unit of a pair to the next pair
        unsigned second;            // from the first row to the second
        bool takes_last;            // part in the last unit of a row
        Plane plane;                // of kMixed
    };
    Stream streams_[S::kPlanes] = {};

    // Known when compiled, where all is of one type.
    __device__ Plane plane(int index) const {
        if constexpr (kType == kMixed) {
            return streams_[index].plane;
        } else {
            return plane_of<kType>(index);
        }
    }

    // The next product in which this warp has units.
    __device__ __forceinline__ void open(int warp, int lane) {
        while (left_ == 0 && next_ < chain_.count) {
            const Share& share = shared_.shares[next_][warp];
            const MatvecArgs& args = chain_.products[next_++];
            const MatvecPart& part = args.parts[share.part];
            left_ = share.end - share.begin;
            units_ = share.units;
            lone_last_ = share.rows.has_lone();
            in_pair_ = units_ - share.unit;
            pairs_left_ = share.rows.pairs() - share.pair;
            const size_t row = share.rows.first_of(share.pair);
            const int type = kType == kMixed ? part.type : kType;
#pragma unroll
            for (int k = 0; k < S::kPlanes; ++k) {
                Stream& stream = streams_[k];
                if constexpr (kType == kMixed) stream.plane = plane_of_block_type(type, k);
                const UnitPlane unit = plane(k).unit;
                if (unit.bytes == 0) continue;
                const RowBytes bytes = row_bytes(type, args.cols);
                // No index, so that it stays in registers.
                const size_t of_row = unit.plane == 0 ? bytes.of[0] : unit.plane == 1 ? bytes.of[1] : unit.plane == 2 ? bytes.of[2] : bytes.of[3];
                const int row_bytes = static_cast<int>(of_row);
                const unsigned char* plane_begin = static_cast<const unsigned char*>(part.weights) + plane_offset(type, part.rows, args.cols, unit.plane);
                stream.from = plane_begin + row * row_bytes + share.unit * unit.step + lane * 16;
                stream.skip = (share.rows.gated ? 1 : 2) * row_bytes - units_ * unit.step;
                stream.second = share.rows.second * static_cast<unsigned>(row_bytes);
                stream.takes_last = ((units_ - 1) * unit.step & ~15) + lane * 16 < row_bytes;
            }
            leave_out_second();
        }
    }

    static constexpr int kUnderWay = S::kDepth - (kType == kMixed ? 1 : 2);

    static __device__ int behind(int stage) { return stage + S::kBytes == ring_bytes<kType>() ? 0 : stage + S::kBytes; }

    // Of a pair that is one row the second one is the first again, and what comes of it is not used.
    __device__ void leave_out_second() {
        if (!lone_last_ || pairs_left_ != 1) return;
#pragma unroll
        for (Stream& stream : streams_) stream.second = 0;
    }

    // Always commits a group, so that groups count stages.
    __device__ __forceinline__ void copy_stage(int warp, int lane) {
        if (left_ == 0) open(warp, lane);
        if (left_ > 0) {
            --left_;
            const bool last = in_pair_ == 1;
#pragma unroll
            for (int k = 0; k < S::kPlanes; ++k) {
                Stream& stream = streams_[k];
                const Plane place = plane(k);
                if (lane * 16 < place.unit.bytes) {
                    const int bytes = !last || stream.takes_last ? 16 : 0;
                    const unsigned char* from = stream.from;
                    // A plane of 8 bytes per unit is copied with its neighbour's.
                    if (place.unit.step < 16) from = reinterpret_cast<const unsigned char*>(reinterpret_cast<uintptr_t>(from) & ~uintptr_t{15});
                    const uint32_t to = address_ + fill_ + place.unit.slot + lane * 16;
                    copy_async(to, from, bytes, policy_);
                    copy_async(to + place.slot_bytes, from + stream.second, bytes, policy_);
                }
                stream.from += place.unit.step;
            }
            if (--in_pair_ == 0) {
                in_pair_ = units_, --pairs_left_;
#pragma unroll
                for (Stream& stream : streams_) stream.from += stream.skip;
                leave_out_second();
            }
        }
        commit_copies();
        fill_ = behind(fill_);
    }

  public:
    // Begins to fill.
    __device__ Ring(const MatvecChain& chain, const MatvecShared& shared, const unsigned char* ring, int warp, int lane)
        : chain_(chain), shared_(shared), ring_(ring), policy_(evict_first_policy()), address_(shared_address(ring)) {
#pragma unroll 1
        for (int i = 0; i < kUnderWay; ++i) copy_stage(warp, lane);
    }

    // The next one or two stages, when they are there; those before them are overwritten from now on.
    template <int kCount>
    __device__ void next(const unsigned char* (&slots)[kCount], int warp, int lane) {
        static_assert(kCount <= S::kDepth - kUnderWay, "stages that nothing is under way to");
        wait_copies<kUnderWay - kCount>();
        // Every lane's copies are there, and every lane is done with the stages that are filled next.
        __syncwarp();
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
            copy_stage(warp, lane);
            slots[i] = ring_ + stage_;
            stage_ = behind(stage_);
        }
    }
};
