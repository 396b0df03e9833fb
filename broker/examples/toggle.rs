//! Switches a target back and forth over one connection, in a sandbox, and says how long a
//! switch takes: `toggle NAME COUNT` prints the median in microseconds and the number of
//! switches in a second. `scripts/bench` runs it.

use remount_broker::client::Client;
use remount_broker::name::TargetName;
use remount_broker::proto::Wish;
use std::error::Error;
use std::io::Write;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let target: TargetName = words.next().ok_or("a target's name is missing")?.parse()?;
    let count: usize = words.next().ok_or("a number is missing")?.parse()?;
    let mut client = Client::connect()?;
    let names = [target];
    // The first ones find caches cold, and the log's file not yet made.
    for wish in [Wish::Ro, Wish::Rw, Wish::Ro, Wish::Rw] {
        client.set(&names, wish)?;
    }
    let mut times = Vec::with_capacity(count);
    let begin = Instant::now();
    for number in 0..count {
        let wish = if number % 2 == 0 { Wish::Ro } else { Wish::Rw };
        let started = Instant::now();
        client.set(&names, wish)?;
        times.push(started.elapsed());
    }
    let all = begin.elapsed().as_secs_f64();
    times.sort_unstable();
    let median = times.get(count / 2).ok_or("the number is 0")?.as_secs_f64() * 1e6;
    writeln!(std::io::stdout(), "{median:.1} {:.0}", count as f64 / all)?;
    Ok(())
}
