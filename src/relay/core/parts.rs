//! The parts of the core, each the only one that writes its fields; and the views, each of what one flow may touch.

use tokio::time::Instant;

use crate::relay::event::Change;
use crate::relay::owning::Owning;
use crate::relay::reading::Reading;
use crate::relay::sending::Sending;
use crate::relay::sending::addresses::Addresses;
use crate::relay::sending::destinations::Destinations;
use crate::relay::sending::lanes::Lanes;
use crate::relay::sending::limits::Limits;
use crate::relay::settling::Settler;
use crate::relay::waiting::Waiting;
use crate::relay::window::Window;
use crate::store::Room;

use super::answers::Answers;
use super::asking::Asking;
use super::departure::Departure;
use super::following::Following;
use super::keepers::Keepers;
use super::outcomes::Outcomes;
use super::outlook::Outlook;
use super::recovery::Recovery;
use super::returning::Returning;
use super::settled::Books;
use super::setup::Setup;

/// See the module.
pub(super) struct Parts {
    /// Rows in memory; lent to everybody.
    pub(super) window: Window,
    pub(super) owning: Owning,
    pub(super) waiting: Waiting,
    pub(super) sending: Sending,
    pub(super) reading: Reading,
    pub(super) settler: Settler,
}

impl Parts {
    /// There are so many transports.
    pub(super) fn new(setup: &Setup, transports: usize, now: Instant) -> Self {
        let Setup { routes, options, .. } = setup;
        let room = Room {
            rows: options.max_in_flight,
            bytes: options.max_in_flight_bytes,
        };
        Self {
            window: Window::new(room, options.lanes),
            owning: Owning::new(now),
            waiting: Waiting::new(now),
            sending: Sending {
                lanes: Lanes::new(options.lanes, transports),
                limits: Limits::new(routes, now),
                destinations: Destinations::new(options.probe_interval, transports, room, now),
                addresses: Addresses::default(),
            },
            reading: Reading::new(options, now),
            settler: Settler::default(),
        }
    }

    /// Goes over to another plan. Nothing in memory belongs to the one before.
    pub(super) fn go_over(&mut self, change: &Change, sending: Sending, setup: &Setup) {
        self.window.resize(change.window);
        self.reading.resize(change.batch_size, change.window);
        self.waiting.unrouted.forget(&setup.telemetry);
        self.sending = sending;
    }

    pub(super) fn outlook(&self) -> Outlook<'_> {
        Outlook {
            territory: &self.owning.territory,
            waiting: &self.waiting,
            destinations: &self.sending.destinations,
            reading: &self.reading,
        }
    }

    pub(super) fn keepers(&self) -> Keepers<'_> {
        Keepers {
            territory: &self.owning.territory,
            waiting: &self.waiting,
            destinations: &self.sending.destinations,
        }
    }

    pub(super) fn returning(&mut self) -> Returning<'_> {
        Returning {
            window: &mut self.window,
            waiting: &mut self.waiting,
            destinations: &mut self.sending.destinations,
        }
    }

    pub(super) fn recovery<'a>(&'a mut self, setup: &'a Setup) -> Recovery<'a> {
        Recovery {
            telemetry: &setup.telemetry,
            destinations: &mut self.sending.destinations,
            reading: &mut self.reading,
        }
    }

    pub(super) fn following<'a>(&'a mut self, setup: &'a Setup) -> Following<'a> {
        Following {
            setup,
            window: &mut self.window,
            owning: &mut self.owning,
            waiting: &mut self.waiting,
            sending: &mut self.sending,
            reading: &mut self.reading,
        }
    }

    pub(super) fn departure<'a>(&'a mut self, setup: &'a Setup) -> Departure<'a> {
        Departure {
            setup,
            window: &mut self.window,
            territory: &self.owning.territory,
            waiting: &mut self.waiting,
            sending: &mut self.sending,
        }
    }

    pub(super) fn asking<'a>(&'a mut self, setup: &'a Setup) -> Asking<'a> {
        Asking {
            setup,
            window: &mut self.window,
            territory: &mut self.owning.territory,
            waiting: &mut self.waiting,
            destinations: &mut self.sending.destinations,
            reading: &mut self.reading,
        }
    }

    pub(super) fn answers<'a>(&'a mut self, setup: &'a Setup) -> Answers<'a> {
        Answers {
            setup,
            window: &mut self.window,
            territory: &mut self.owning.territory,
            waiting: &mut self.waiting,
            sending: &mut self.sending,
            reading: &mut self.reading,
            settler: &mut self.settler,
        }
    }

    pub(super) fn outcomes<'a>(&'a mut self, setup: &'a Setup, is_running: bool) -> Outcomes<'a> {
        Outcomes {
            setup,
            window: &mut self.window,
            territory: &self.owning.territory,
            waiting: &mut self.waiting,
            sending: &mut self.sending,
            reading: &mut self.reading,
            settler: &mut self.settler,
            is_running,
        }
    }

    pub(super) fn books<'a>(&'a mut self, setup: &'a Setup) -> Books<'a> {
        Books {
            telemetry: &setup.telemetry,
            window: &mut self.window,
            waiting: &mut self.waiting,
            reading: &mut self.reading,
            settler: &mut self.settler,
        }
    }
}
