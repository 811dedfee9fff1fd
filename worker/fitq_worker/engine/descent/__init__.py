"""The descent: losses, optimizers, schedules and stopping as pure functions over a batch, and the loop over the steps."""
