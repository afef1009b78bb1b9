//! Token rate limits: the counters and overrides byte for byte on real Redis, the built module callback by callback, and through the
//! gateway in both generations of upstream's configuration and in ours, alone and behind a quota.

mod callbacks;
mod counters;
mod gate;
mod holds;
mod overrides;
mod warned;
