//! The small operations between the products, on plain slices: at batch 1 a tensor operation costs more than its
//! arithmetic.

/// `out = x / rms(x) * weight`, row by row. The mean square is summed in f32 over 16 lanes.
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        let scale = inverse_rms(x, eps);
        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * w;
        }
    }
}

/// In place.
pub(super) fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    for x in x.chunks_exact_mut(weight.len()) {
        let scale = inverse_rms(x, eps);
        for (x, w) in x.iter_mut().zip(weight) {
            *x = *x * scale * w;
        }
    }
}

fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let mut lanes = [0f32; 16];
    let chunks = x.chunks_exact(16);
    let rest: f32 = chunks.remainder().iter().map(|x| x * x).sum();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * x;
        }
    }
    let sum = lanes.iter().sum::<f32>() + rest;
    1.0 / (sum / x.len() as f32 + eps).sqrt()
}

/// Rotates the halves of one head: (a, b) → (a cos − b sin, b cos + a sin).
pub(super) fn rotate(head: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
    let half = cos.len();
    let (a, b) = head.split_at(half);
    let (out_a, out_b) = out.split_at_mut(half);
    for i in 0..half {
        out_a[i] = a[i] * cos[i] - b[i] * sin[i];
        out_b[i] = b[i] * cos[i] + a[i] * sin[i];
    }
}

pub(super) fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// `gate_up` holds rows of gate and up side by side, each `[width]`; `out` gets `silu(gate) * up`.
pub(super) fn gated_silu(gate_up: &[f32], width: usize, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
        // SAFETY: both features were just found on this machine.
        unsafe { gated_silu_avx2(gate_up, width, out) };
        return;
    }
    gated_silu_rows(gate_up, width, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn gated_silu_avx2(gate_up: &[f32], width: usize, out: &mut [f32]) {
    gated_silu_rows(gate_up, width, out);
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "it must take on the caller's instruction set")]
fn gated_silu_rows(gate_up: &[f32], width: usize, out: &mut [f32]) {
    for (row, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
        let (gate, up) = row.split_at(width);
        for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
            *out = g / (1.0 + exp(-*g)) * u;
        }
    }
}

/// e^x by 2^n · p(r), branch-free so that it vectorises; relative error below 3e-7, saturating at ±87.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5·2^23 rounds to the nearest whole number.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 87.0);
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.987_569_2e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 0.166_666_66;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    // n lies in -126..=126, so the exponent field neither under- nor overflows.
    p * f32::from_bits((((n as i32) + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        for i in -87_000..=87_000 {
            let x = i as f32 / 1000.0;
            let want = f64::from(x).exp();
            assert!(((f64::from(exp(x)) - want) / want).abs() < 3e-7, "{x}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e9) > 0.0 && exp(1e9).is_finite());
    }

    #[test]
    fn silu_goes_to_zero_and_to_the_identity() {
        let mut out = [0.0; 3];
        gated_silu(&[-200.0, 0.0, 50.0, 1.0, 1.0, 2.0], 3, &mut out);
        assert!(out[0].abs() < 1e-30);
        assert_eq!(out[1], 0.0);
        assert_eq!(out[2], 100.0);
    }

    #[test]
    fn norm_of_a_constant_row_is_the_weight() {
        let mut out = [0.0; 20];
        rms_norm(&[3.0; 20], &[2.0; 20], 0.0, &mut out);
        assert!(out.iter().all(|x| (x - 2.0).abs() < 1e-6));
        let mut x = [3.0; 20];
        rms_norm_in_place(&mut x, &[2.0; 20], 0.0);
        assert_eq!(x, out);
    }

    #[test]
    fn rotation_keeps_the_length() {
        let mut out = [0.0; 4];
        let (sin, cos) = 0.3f32.sin_cos();
        rotate(&[1.0, 2.0, 3.0, 4.0], &[cos, 1.0], &[sin, 0.0], &mut out);
        assert!((out[0] * out[0] + out[2] * out[2] - 10.0).abs() < 1e-5);
        assert_eq!((out[1], out[3]), (2.0, 4.0));
    }
}
