//! Three hundred clients at once.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use crate::collector::{Collector, wait_for};

#[test]
fn three_hundred_clients_get_all_of_it() {
    let collector = Collector::start();
    let clients: Vec<_> = (0..300)
        .map(|_| collector.client("types=samples"))
        .collect();
    assert_eq!(collector.events.counters().clients.load(Relaxed), 300);
    let count = 500;
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for mut client in clients {
            let read = move || {
                for ms in 0..count {
                    let event = client.next().unwrap();
                    assert_eq!(event.data["ts"], crate::collector::T + ms);
                }
            };
            let thread = std::thread::Builder::new().stack_size(256 << 10);
            thread.spawn_scoped(scope, read).unwrap();
        }
        for ms in 0..count {
            collector.sample("d", "cpu", ms, r#"{"a":1,"b":{"c":0.5}}"#);
        }
        println!("{count} messages committed in {:?}", begin.elapsed());
    });
    println!("300 clients had all of them after {:?}", begin.elapsed());
    wait_for("no client", || {
        collector.events.counters().clients.load(Relaxed) == 0
    });
    assert_eq!(collector.events.counters().dropped.load(Relaxed), 0);
    assert_eq!(collector.events.counters().gaps.load(Relaxed), 0);
}
