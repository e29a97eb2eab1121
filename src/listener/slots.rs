//! How many connections each client may have.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;

use super::progress::Progress;
use super::{ClientNetwork, Limits};

/// The slots of a port.
pub(super) struct Slots {
    limits: Limits,
    refused: Counter,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    slots: HashMap<u64, Taken>,
    by_network: HashMap<ClientNetwork, usize>,
    /// Slots of connections that do not come from gateways.
    by_clients: usize,
    next: u64,
}

struct Taken {
    network: ClientNetwork,
    is_gateway: bool,
    progress: Progress,
    evicted: Arc<Notify>,
}

/// A slot, given back when it is dropped.
pub(super) struct Slot {
    id: u64,
    slots: Arc<Slots>,
    /// How far the connection has come.
    pub(super) progress: Progress,
    /// Notified when another connection needs the slot.
    pub(super) evicted: Arc<Notify>,
}

// === impl Slots ===

impl Slots {
    pub(super) fn new(limits: Limits, refused: Counter) -> Arc<Self> {
        Arc::new(Self { limits, refused, held: Mutex::default() })
    }

    /// A slot for a connection from this address, if it may have one.
    pub(super) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Slot> {
        let limits = &self.limits;
        let (network, peer) = (ClientNetwork::from(peer), peer.to_canonical());
        let is_gateway = limits.gateways.iter().any(|network| network.contains(&peer));
        let mut held = self.held.lock();
        let own = held.by_network.get(&network).copied().unwrap_or_default();
        if !is_gateway && own >= limits.per_address() {
            self.refused.inc();
            return None;
        }
        let is_full = held.slots.len() >= limits.connections;
        if is_full || (!is_gateway && held.by_clients >= limits.for_clients()) {
            // Counted either way: this connection is refused, or another one loses its slot.
            self.refused.inc();
            let id = held.most_dispensable(is_gateway)?;
            if let Some(taken) = held.release(id) {
                taken.evicted.notify_one();
            }
        }
        let (progress, evicted) = (Progress::new(), Arc::new(Notify::new()));
        let id = held.hold(Taken { network, is_gateway, progress: progress.clone(), evicted: evicted.clone() });
        Some(Slot { id, slots: self.clone(), progress, evicted })
    }
}

// === impl Held ===

impl Held {
    /// The connection to close: of the network that holds most, the one that has waited longest for its client. A gateway loses
    /// one only to a gateway, and only if no client has one left.
    fn most_dispensable(&self, for_gateway: bool) -> Option<u64> {
        let candidates = self.slots.iter().filter(|(_, taken)| for_gateway || !taken.is_gateway);
        let ranked = candidates.filter_map(|(id, taken)| {
            let waits = taken.progress.waits_since()?;
            let holds = self.by_network.get(&taken.network);
            Some((!taken.is_gateway, holds, Reverse(waits), *id))
        });
        ranked.max().map(|(.., id)| id)
    }

    fn hold(&mut self, taken: Taken) -> u64 {
        let id = self.next;
        self.next += 1;
        *self.by_network.entry(taken.network).or_default() += 1;
        self.by_clients += usize::from(!taken.is_gateway);
        self.slots.insert(id, taken);
        id
    }

    fn release(&mut self, id: u64) -> Option<Taken> {
        let taken = self.slots.remove(&id)?;
        self.by_clients -= usize::from(!taken.is_gateway);
        if let Some(count) = self.by_network.get_mut(&taken.network) {
            *count -= 1;
            if *count == 0 {
                self.by_network.remove(&taken.network);
            }
        }
        Some(taken)
    }
}

// === impl Slot ===

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.held.lock().release(self.id);
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

    /// 32 slots: 4 for each client, 24 for all of them, unless there are no gateways.
    fn slots(gateways: &[&str]) -> Arc<Slots> {
        let gateways = gateways.iter().map(|network| network.parse().unwrap()).collect();
        Slots::new(Limits { connections: 32, head: 8192, gateways }, Counter::default())
    }

    fn take(slots: &Arc<Slots>, address: &str, times: usize) -> Vec<Slot> {
        (0..times).filter_map(|_| slots.take(address.parse().unwrap())).collect()
    }

    fn is_evicted(slot: &Slot) -> bool {
        slot.evicted.notified().now_or_never().is_some()
    }

    /// The client has sent a whole request.
    fn ask(slot: &Slot) {
        slot.progress.receive(b"GET / HTTP/1.1\r\n\r\n");
        slot.progress.begin(Some(0));
    }

    #[tokio::test]
    async fn a_client_has_its_share_and_gets_it_back() {
        let slots = slots(&["10.0.0.0/8"]);
        let mut held = take(&slots, CLIENT, 10);
        assert_eq!((held.len(), slots.refused.get()), (4, 6));
        assert_eq!(take(&slots, &format!("::ffff:{CLIENT}"), 1).len(), 0, "the same address");
        held.pop();
        assert_eq!(take(&slots, CLIENT, 10).len(), 1);
        assert_eq!(take(&slots, OTHER, 10).len(), 4);
        drop(held);
        let held = slots.held.lock();
        assert!(
            held.slots.is_empty() && held.by_network.is_empty() && held.by_clients == 0,
            "closed connections leave nothing behind"
        );
    }

    #[tokio::test]
    async fn an_ipv6_network_has_one_share() {
        let slots = slots(&["10.0.0.0/8"]);
        let one = take(&slots, "2001:db8::1", 3);
        let other = take(&slots, "2001:db8::2:3:4:5", 3);
        assert_eq!((one.len(), other.len()), (3, 1));
        assert_eq!(take(&slots, "2001:db8:0:1::1", 10).len(), 4);
    }

    #[tokio::test]
    async fn a_gateway_may_have_all_slots_and_clients_cannot_take_its_part() {
        let some = slots(&["10.0.0.0/8"]);
        let held = take(&some, GATEWAY, 40);
        assert_eq!((some.held.lock().slots.len(), held.iter().filter(|slot| is_evicted(slot)).count()), (32, 8));
        let all = slots(&["10.0.0.0/8"]);
        let clients: Vec<_> = (0..40).flat_map(|n| take(&all, &format!("203.0.113.{n}"), 4)).collect();
        assert_eq!(all.held.lock().by_clients, 24);
        let gateway = take(&all, GATEWAY, 8);
        assert_eq!(gateway.len(), 8);
        assert_eq!(all.held.lock().by_clients, 24, "these slots were kept for the gateway");
        let more = take(&all, GATEWAY, 24);
        assert_eq!((more.len(), all.held.lock().by_clients), (24, 0), "it gets the others from clients that wait");
        assert!(!gateway.iter().any(is_evicted));
        drop(clients);
    }

    #[tokio::test]
    async fn without_gateways_one_address_has_half() {
        let slots = slots(&[]);
        let one = take(&slots, GATEWAY, 40);
        let others: Vec<_> = (0..4).flat_map(|n| take(&slots, &format!("203.0.113.{n}"), 4)).collect();
        assert_eq!((one.len(), others.len()), (16, 16));
        assert!(!one.iter().any(is_evicted), "there was room for all of them");
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_port_closes_the_longest_waiting_connection_of_the_network_that_holds_most() {
        let slots = slots(&[]);
        let few = take(&slots, OTHER, 2);
        advance(Duration::from_secs(1)).await;
        let most = take(&slots, CLIENT, 16);
        advance(Duration::from_secs(1)).await;
        let fewer = take(&slots, GATEWAY, 14);
        // The first has sent a request, so the second waits longest.
        ask(&most[0]);
        let new = take(&slots, "198.51.100.1", 1);
        assert_eq!(new.len(), 1);
        assert!(is_evicted(&most[1]) || most[2..].iter().any(is_evicted));
        assert!(!is_evicted(&most[0]) && !few.iter().chain(&fewer).any(is_evicted));
        assert_eq!(slots.held.lock().slots.len(), 32);
        drop(most);
        assert_eq!(slots.held.lock().slots.len(), 17, "a slot that was lost is not given back twice");
    }

    #[tokio::test]
    async fn a_request_that_is_being_answered_keeps_its_slot() {
        let slots = slots(&[]);
        let held: Vec<_> = (0..32).flat_map(|n| take(&slots, &format!("203.0.113.{n}"), 1)).collect();
        held.iter().for_each(ask);
        assert!(take(&slots, "198.51.100.1", 1).is_empty());
        assert!(!held.iter().any(is_evicted));
    }
}
