//! The OAuth consumer: its key, the hash of its secret, the decision about it, and what has to be done for it.
//!
//! [`decide()`] makes the plan, and [`conclude()`] the status afterwards. [`deny()`] makes the part of the plan that ends a
//! sign-in.
//! Everything here is pure: no I/O, no clock, no Kubernetes client, no SQL. Controller, sweep and tests use the same functions.

mod amend;
mod conclude;
mod conditions;
mod decide;
mod draft;
mod failure;
#[cfg(test)]
mod fixture;
mod key;
mod observed;
mod phc;
mod reason;
mod record;
mod secret;

pub use conclude::{Conclusion, EventDraft, Outcome, conclude};
pub use conditions::{Committed, ConditionState, ConditionStatus, StatusUpdate};
pub use decide::{Effect, Missing, Plan, PolicyEnforced, decide, deny};
pub use draft::Unhashed;
pub use failure::{Failure, Handling, ReconcileResult, Requeue};
pub use key::{ConsumerKey, InvalidKey};
pub use observed::{Object, Observed, Published, SecretRef, SecretSeen};
pub use phc::{HashCost, HashMemory, Phc, PhcError};
pub use reason::{EventReason, Reason};
pub use record::{Decision, Owner, Profile, Record, Revocation, SecretOutcome, SecretSource, State, Stored};
pub use secret::{Fingerprint, FingerprintKey, SecretLimits, SecretProblem, SecretValue};
