//! Renderings of plans, events and reports. Pure text.
