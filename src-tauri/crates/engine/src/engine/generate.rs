//! One reply: common prefix, reading, then the token loop.

use std::ops::ControlFlow;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mac_attention::HeadOutcome;

use super::progress::ReadingClock;
use super::thread::{Command, Shared};
use super::{ModelInfo, common_prefix};
use crate::exec::Executor;
use crate::text::{TextModel, goes_on};
use crate::{Attention, AuditSummary, EngineError, Event, PrefillProgress, StepStats, StopReason, Summary, TokenEvent};

pub(super) fn generate(
    executor: &mut dyn Executor,
    text: &TextModel,
    info: &ModelInfo,
    shared: &Shared,
    command: Command,
) -> Result<Summary, EngineError> {
    executor.set_attention(&command.request.attention)?;
    executor.set_sampling(&command.request.sampling)?;
    let mut reply = Reply::new(executor, text, info, shared, command);
    let reading = reply.read();
    // Whatever happened, the cache holds whole chunks and the live ids say which.
    reply.publish_live();
    match reading? {
        ControlFlow::Break(()) => reply.stop = StopReason::User,
        ControlFlow::Continue(()) => {
            let written = reply.write();
            reply.publish_live();
            written?;
        }
    }
    Ok(reply.summary())
}

struct Reply<'a> {
    executor: &'a mut dyn Executor,
    text: &'a TextModel,
    info: &'a ModelInfo,
    shared: &'a Shared,
    command: Command,
    /// Prompt and what was fed back, as it stands or will stand in the cache.
    history: Vec<u32>,
    reading: Option<PrefillProgress>,
    written: Vec<u32>,
    ttft_s: Option<f64>,
    stop: StopReason,
    totals: Totals,
    audits: Audits,
}

/// Sums over decode steps.
#[derive(Debug, Default)]
struct Totals {
    steps: usize,
    seconds: f64,
    heads: usize,
    heads_matched: usize,
    groups: usize,
    groups_reused: usize,
    kv_bytes_read: u64,
    ring_bytes: u64,
    kv_bytes_exact: u64,
    exact_fallback_steps: usize,
}

impl<'a> Reply<'a> {
    fn new(
        executor: &'a mut dyn Executor,
        text: &'a TextModel,
        info: &'a ModelInfo,
        shared: &'a Shared,
        command: Command,
    ) -> Self {
        let audits = Audits::new(info.layers, info.num_kv_heads);
        Self {
            history: command.ids.clone(),
            executor,
            text,
            info,
            shared,
            command,
            reading: None,
            written: Vec::new(),
            ttft_s: None,
            stop: StopReason::EndOfTurn,
            totals: Totals::default(),
            audits,
        }
    }

    /// `Break` when nobody listens any more.
    fn send(&self, event: Event) -> ControlFlow<()> {
        if self.command.events.send(event).is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }

    fn stopped(&self) -> bool {
        self.command.stop.flag().load(Ordering::Relaxed)
    }

    /// Tells handles what the cache holds.
    fn publish_live(&self) {
        let mut live = self.shared.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.clear();
        live.extend_from_slice(&self.history[..self.executor.kv_len()]);
    }

    fn read(&mut self) -> Result<ControlFlow<()>, EngineError> {
        let ids = &self.command.ids;
        let cached = {
            let live = self.shared.live.lock().unwrap_or_else(PoisonError::into_inner);
            common_prefix(&live, ids).min(ids.len() - 1)
        };
        self.executor.truncate(cached);
        let mut clock = ReadingClock::start(cached, ids.len());
        self.reading = Some(clock.report());
        if self.send(Event::Prefill(clock.report())).is_break() || self.stopped() {
            return Ok(ControlFlow::Break(()));
        }
        let events = &self.command.events;
        let mut tick = |kv_len| {
            clock.chunk(kv_len);
            match events.send(Event::Prefill(clock.report())) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        };
        let end = self.executor.prefill(&ids[cached..], &mut tick, self.command.stop.flag());
        self.reading = Some(clock.report());
        end
    }

    fn write(&mut self) -> Result<(), EngineError> {
        let request = &self.command.request;
        let continues = goes_on(&request.messages, request.continue_reply);
        let mut stream = if continues { self.text.stream_after(&self.command.ids)? } else { self.text.stream() };
        let capacity = self.info.context_tokens;
        let most = self.command.request.max_tokens.unwrap_or(usize::MAX);
        let mut token = self.executor.choose()?;
        // When the step on `token` was started, if it was.
        let mut started = None;
        loop {
            if self.text.is_stop(token) {
                self.stop = StopReason::EndOfTurn;
                return Ok(());
            }
            if self.written.len() >= most {
                self.stop = StopReason::MaxTokens;
                return Ok(());
            }
            let text = stream.push(token)?;
            let index = self.written.len();
            self.written.push(token);
            let end = if self.stopped() {
                Some(StopReason::User)
            } else if self.written.len() == most {
                Some(StopReason::MaxTokens)
            } else if self.executor.kv_len() >= capacity {
                Some(StopReason::ContextFull)
            } else {
                None
            };
            let began = started.take().unwrap_or_else(Instant::now);
            let end = match end {
                None if self.executor.decode(token, self.command.stop.flag())?.is_break() => Some(StopReason::User),
                end => end,
            };
            if let Some(reason) = end {
                self.stop = reason;
                let _ = self.emit(TokenEvent { index, id: token, text, step: None });
                return Ok(());
            }
            self.history.push(token);
            let next = self.executor.choose()?;
            let ended = Instant::now();
            let begun = if self.goes_on(next, most, capacity) {
                started = Some(ended);
                self.executor.begin(next)
            } else {
                Ok(())
            };
            let step = self.count_step((ended - began).as_secs_f64());
            if self.emit(TokenEvent { index, id: token, text, step: Some(step) }).is_break() {
                self.stop = StopReason::User;
                return Ok(());
            }
            begun?;
            self.audit()?;
            token = next;
        }
    }

    /// Whether a step on `next` follows at once: nothing ends the reply before it, and nobody wants to look at the step
    /// that just ran. That step is not counted yet.
    fn goes_on(&self, next: u32, most: usize, capacity: usize) -> bool {
        !self.text.is_stop(next)
            && self.written.len() + 1 < most
            && self.executor.kv_len() < capacity
            && !self.stopped()
            && !self.audit_due(self.totals.steps + 1)
    }

    fn audit_due(&self, steps: usize) -> bool {
        let every = self.command.request.audit_every;
        every > 0 && steps.is_multiple_of(every) && self.command.request.attention != Attention::Exact
    }

    fn emit(&mut self, token: TokenEvent) -> ControlFlow<()> {
        self.ttft_s.get_or_insert_with(|| self.command.asked.elapsed().as_secs_f64());
        self.send(Event::Token(token))
    }

    /// Counters of the step that just ran.
    fn count_step(&mut self, seconds: f64) -> StepStats {
        let counters = self.executor.counters();
        let heads: Vec<HeadOutcome> = counters.iter().flat_map(|c| c.heads.iter().copied()).collect();
        let context_tokens = self.executor.kv_len();
        let searched = heads.iter().any(|h| *h != HeadOutcome::NotSearched);
        let step = StepStats {
            context_tokens,
            seconds,
            reuse_active: searched && self.command.request.attention != Attention::Exact,
            layers: self.info.layers,
            num_q_heads: self.info.num_q_heads,
            num_kv_heads: self.info.num_kv_heads,
            heads_matched: counters.iter().map(mac_attention::Counters::heads_matched).sum(),
            groups_reused: counters.iter().map(|c| c.groups_reused).sum(),
            kv_bytes_read: counters.iter().map(|c| c.kv_bytes_read).sum(),
            ring_bytes: counters.iter().map(|c| c.ring_bytes).sum(),
            kv_bytes_exact: counters.iter().map(|c| c.kv_bytes_exact).sum(),
            heads,
        };
        let totals = &mut self.totals;
        totals.steps += 1;
        totals.seconds += seconds;
        totals.heads += self.info.layers * self.info.num_q_heads;
        totals.heads_matched += step.heads_matched;
        totals.groups += self.info.layers * self.info.num_kv_heads;
        totals.groups_reused += step.groups_reused;
        totals.kv_bytes_read += step.kv_bytes_read;
        totals.ring_bytes += step.ring_bytes;
        totals.kv_bytes_exact += step.kv_bytes_exact;
        if matches!(&self.command.request.attention, Attention::Mac(_)) && !searched {
            totals.exact_fallback_steps += 1;
        }
        step
    }

    /// Compares one group of one layer with exact attention, outside the time of steps.
    fn audit(&mut self) -> Result<(), EngineError> {
        if !self.audit_due(self.totals.steps) {
            return Ok(());
        }
        let (layer, kv_head) = self.audits.next_place();
        let audits = self.executor.audit(layer, kv_head)?;
        let outcomes = &self.executor.counters()[layer].heads;
        for audit in audits {
            let reused = outcomes.get(audit.q_head) == Some(&HeadOutcome::Reused);
            self.audits.add(f64::from(audit.relative_error), reused);
        }
        Ok(())
    }

    fn summary(self) -> Summary {
        let share = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
        let Totals { steps, seconds, .. } = self.totals;
        Summary {
            model: self.info.name.clone(),
            device: self.info.device.clone(),
            kv: self.info.kv,
            attention: match self.command.request.attention {
                Attention::Mac(_) => "mac",
                Attention::Exact => "exact",
                Attention::Forced(_) => "forced",
            },
            prompt_tokens: self.command.ids.len(),
            cached_tokens: self.reading.map_or(0, |r| r.cached),
            prefill_s: self.reading.map_or(0.0, |r| r.elapsed.as_secs_f64()),
            ttft_s: self.ttft_s.unwrap_or_else(|| self.command.asked.elapsed().as_secs_f64()),
            decode_tokens: self.written.len(),
            decode_s: seconds,
            decode_steps: steps,
            stop: self.stop,
            head_hit_rate: share(self.totals.heads_matched, self.totals.heads),
            group_hit_rate: share(self.totals.groups_reused, self.totals.groups),
            kv_bytes_read: self.totals.kv_bytes_read,
            ring_bytes: self.totals.ring_bytes,
            kv_bytes_exact: self.totals.kv_bytes_exact,
            exact_fallback_steps: self.totals.exact_fallback_steps,
            audit: self.audits.summary(),
            token_ids: self.written,
        }
    }
}

/// Which places were looked at, and what was found.
#[derive(Debug)]
struct Audits {
    layers: usize,
    places: usize,
    stride: usize,
    taken: usize,
    samples: usize,
    reused: usize,
    sum: f64,
    largest: f64,
}

impl Audits {
    fn new(layers: usize, num_kv_heads: usize) -> Self {
        let places = (layers * num_kv_heads).max(1);
        // A stride without a common factor visits every place once before it comes back; near the golden section it
        // spreads early visits over all layers.
        let golden = (places as f64 * 0.618) as usize;
        let stride = (golden.max(1)..=golden + places).find(|s| greatest_common_divisor(*s, places) == 1).unwrap_or(1);
        Self { layers, places, stride, taken: 0, samples: 0, reused: 0, sum: 0.0, largest: 0.0 }
    }

    /// (layer, KV head) of the next audit.
    fn next_place(&mut self) -> (usize, usize) {
        let place = self.taken * self.stride % self.places;
        self.taken += 1;
        (place % self.layers, place / self.layers)
    }

    fn add(&mut self, relative_error: f64, reused: bool) {
        self.samples += 1;
        self.reused += usize::from(reused);
        self.sum += relative_error;
        // `f64::max` drops NaN, and a broken kernel would look perfect.
        self.largest = if relative_error.is_nan() { f64::NAN } else { self.largest.max(relative_error) };
    }

    fn summary(&self) -> Option<AuditSummary> {
        (self.samples > 0).then(|| AuditSummary {
            samples: self.samples,
            mean_relative_error: self.sum / self.samples as f64,
            max_relative_error: self.largest,
            reused_samples: self.reused,
        })
    }
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audits_visit_every_group_before_one_twice() {
        let mut audits = Audits::new(8, 2);
        let mut places: Vec<_> = (0..16).map(|_| audits.next_place()).collect();
        assert_eq!(audits.next_place(), places[0]);
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 16);
        assert!(places.iter().all(|(layer, head)| *layer < 8 && *head < 2));
    }

    #[test]
    fn a_nan_error_is_not_lost() {
        let mut audits = Audits::new(1, 1);
        assert_eq!(audits.summary(), None);
        audits.add(f64::NAN, true);
        audits.add(0.5, false);
        let summary = audits.summary().unwrap();
        assert!(summary.mean_relative_error.is_nan());
        assert_eq!((summary.samples, summary.reused_samples), (2, 1));
    }
}
