//! Who may have how many connections.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;

use super::progress::Progress;
use super::{Limits, Subscriber};

/// The places of a port.
pub(super) struct Places {
    limits: Limits,
    refused: Counter,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    places: HashMap<u64, Taken>,
    by_subscriber: HashMap<Subscriber, usize>,
    /// Places of connections that do not come from gateways.
    by_clients: usize,
    next: u64,
}

struct Taken {
    subscriber: Subscriber,
    is_gateway: bool,
    progress: Progress,
    evicted: Arc<Notify>,
}

/// A place, given back when it is dropped.
pub(super) struct Place {
    id: u64,
    places: Arc<Places>,
    /// How far the connection has come.
    pub(super) progress: Progress,
    /// Told when the place is needed for another connection.
    pub(super) evicted: Arc<Notify>,
}

// === impl Places ===

impl Places {
    pub(super) fn new(limits: Limits, refused: Counter) -> Arc<Self> {
        Arc::new(Self { limits, refused, held: Mutex::default() })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from this address, if it may have one.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let limits = &self.limits;
        let (subscriber, peer) = (Subscriber::from(peer), peer.to_canonical());
        let is_gateway = limits.gateways.iter().any(|network| network.contains(&peer));
        let mut held = self.held();
        let own = held.by_subscriber.get(&subscriber).copied().unwrap_or_default();
        if !is_gateway && own >= limits.per_address() {
            self.refused.inc();
            return None;
        }
        let is_full = held.places.len() >= limits.connections;
        if is_full || (!is_gateway && held.by_clients >= limits.for_clients()) {
            // Either it is refused, or another one loses its place.
            self.refused.inc();
            let id = held.most_dispensable(is_gateway)?;
            if let Some(taken) = held.release(id) {
                taken.evicted.notify_one();
            }
        }
        let (progress, evicted) = (Progress::new(), Arc::new(Notify::new()));
        let id = held.hold(Taken { subscriber, is_gateway, progress: progress.clone(), evicted: evicted.clone() });
        Some(Place { id, places: self.clone(), progress, evicted })
    }
}

// === impl Held ===

impl Held {
    /// The connection that waits longest for its client, of the address that holds most. A gateway's only for a gateway, and
    /// only where no client's is left.
    fn most_dispensable(&self, for_gateway: bool) -> Option<u64> {
        let candidates = self.places.iter().filter(|(_, taken)| for_gateway || !taken.is_gateway);
        let ranked = candidates.filter_map(|(id, taken)| {
            let waits = taken.progress.waits_since()?;
            let holds = self.by_subscriber.get(&taken.subscriber);
            Some((!taken.is_gateway, holds, Reverse(waits), *id))
        });
        ranked.max().map(|(.., id)| id)
    }

    fn hold(&mut self, taken: Taken) -> u64 {
        let id = self.next;
        self.next += 1;
        *self.by_subscriber.entry(taken.subscriber).or_default() += 1;
        self.by_clients += usize::from(!taken.is_gateway);
        self.places.insert(id, taken);
        id
    }

    fn release(&mut self, id: u64) -> Option<Taken> {
        let taken = self.places.remove(&id)?;
        self.by_clients -= usize::from(!taken.is_gateway);
        if let Some(count) = self.by_subscriber.get_mut(&taken.subscriber) {
            *count -= 1;
            if *count == 0 {
                self.by_subscriber.remove(&taken.subscriber);
            }
        }
        Some(taken)
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held().release(self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use tokio::time::advance;

    use super::*;

    const CLIENT: &str = "203.0.113.1";
    const OTHER: &str = "203.0.113.2";
    const GATEWAY: &str = "10.0.0.1";

    /// 32 places: 4 for each client, 24 for all of them, unless there are no gateways.
    fn places(gateways: &[&str]) -> Arc<Places> {
        let gateways = gateways.iter().map(|network| network.parse().unwrap()).collect();
        Places::new(Limits { connections: 32, head: 8192, gateways }, Counter::default())
    }

    fn take(places: &Arc<Places>, address: &str, times: usize) -> Vec<Place> {
        (0..times).filter_map(|_| places.take(address.parse().unwrap())).collect()
    }

    fn is_evicted(place: &Place) -> bool {
        place.evicted.notified().now_or_never().is_some()
    }

    /// Its client has sent all of a request.
    fn ask(place: &Place) {
        place.progress.receive(b"GET / HTTP/1.1\r\n\r\n");
        place.progress.begin(Some(0));
    }

    #[tokio::test]
    async fn a_client_has_its_share_and_gets_it_back() {
        let places = places(&["10.0.0.0/8"]);
        let mut held = take(&places, CLIENT, 10);
        assert_eq!((held.len(), places.refused.get()), (4, 6));
        assert_eq!(take(&places, &format!("::ffff:{CLIENT}"), 1).len(), 0, "the same address");
        held.pop();
        assert_eq!(take(&places, CLIENT, 10).len(), 1);
        assert_eq!(take(&places, OTHER, 10).len(), 4);
        drop(held);
        let held = places.held();
        assert!(
            held.places.is_empty() && held.by_subscriber.is_empty() && held.by_clients == 0,
            "nothing is kept of those who left"
        );
    }

    #[tokio::test]
    async fn an_ipv6_network_has_one_share() {
        let places = places(&["10.0.0.0/8"]);
        let one = take(&places, "2001:db8::1", 3);
        let other = take(&places, "2001:db8::2:3:4:5", 3);
        assert_eq!((one.len(), other.len()), (3, 1));
        assert_eq!(take(&places, "2001:db8:0:1::1", 10).len(), 4);
    }

    #[tokio::test]
    async fn a_gateway_may_have_all_places_and_clients_cannot_take_its_part() {
        let some = places(&["10.0.0.0/8"]);
        let held = take(&some, GATEWAY, 40);
        assert_eq!((some.held().places.len(), held.iter().filter(|place| is_evicted(place)).count()), (32, 8));
        let all = places(&["10.0.0.0/8"]);
        let clients: Vec<_> = (0..40).flat_map(|n| take(&all, &format!("203.0.113.{n}"), 4)).collect();
        assert_eq!(all.held().by_clients, 24);
        let gateway = take(&all, GATEWAY, 8);
        assert_eq!(gateway.len(), 8);
        assert_eq!(all.held().by_clients, 24, "these were kept for it");
        let more = take(&all, GATEWAY, 24);
        assert_eq!((more.len(), all.held().by_clients), (24, 0), "and the others it gets from those that wait");
        assert!(!gateway.iter().any(is_evicted));
        drop(clients);
    }

    #[tokio::test]
    async fn without_gateways_one_address_has_half() {
        let places = places(&[]);
        let one = take(&places, GATEWAY, 40);
        let others: Vec<_> = (0..4).flat_map(|n| take(&places, &format!("203.0.113.{n}"), 4)).collect();
        assert_eq!((one.len(), others.len()), (16, 16));
        assert!(!one.iter().any(is_evicted), "there was room for all of them");
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_when_all_is_full_takes_the_place_of_who_waits_longest_where_most_are_held() {
        let places = places(&[]);
        let few = take(&places, OTHER, 2);
        advance(Duration::from_secs(1)).await;
        let most = take(&places, CLIENT, 16);
        advance(Duration::from_secs(1)).await;
        let fewer = take(&places, GATEWAY, 14);
        // The first has sent a request, so the second waits longest.
        ask(&most[0]);
        let new = take(&places, "198.51.100.1", 1);
        assert_eq!(new.len(), 1);
        assert!(is_evicted(&most[1]) || most[2..].iter().any(is_evicted));
        assert!(!is_evicted(&most[0]) && !few.iter().chain(&fewer).any(is_evicted));
        assert_eq!(places.held().places.len(), 32);
        drop(most);
        assert_eq!(places.held().places.len(), 17, "a place that was lost is not given back twice");
    }

    #[tokio::test]
    async fn a_request_that_is_being_answered_keeps_its_place() {
        let places = places(&[]);
        let held: Vec<_> = (0..32).flat_map(|n| take(&places, &format!("203.0.113.{n}"), 1)).collect();
        held.iter().for_each(ask);
        assert!(take(&places, "198.51.100.1", 1).is_empty());
        assert!(!held.iter().any(is_evicted));
    }
}
