//! What people do with consumers, with their own permissions: the requests behind the plugin's commands and the page's buttons.
//!
//! Everything here is a patch and never an apply, because an apply drops the fields that it does not name, a hold among them.

mod explain;
mod ownership;
mod plan;
mod requests;

pub use explain::{Explanation, explain};
pub use plan::{Action, Planned, plan};
pub use requests::{Registration, Requests, WriteSecret, suggest_secret};

/// With this field manager people decide: Flux leaves alone what it has set, and a hold is lifted with no other.
pub const FIELD_MANAGER: &str = "oauthconsumers-approval";
