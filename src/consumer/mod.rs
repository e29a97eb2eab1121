//! What an OAuth consumer is: its key, its secret's hash, the decision about it, and what has to be done for it.
//!
//! Everything here is pure: no I/O, no clock, no Kubernetes client, no SQL. The same functions drive the
//! controller, the sweep and the tests.
//!
//! [`decide()`] says what is to be done, and [`conclude()`] what the status may say afterwards. [`deny()`] is the part of `decide`
//! that ends a sign-in.

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
