//! A command carried out on a device, up to its reply.

use std::sync::Arc;

use shale_model::{BlockDevice, DeviceError, DeviceResult, with_causes};

use crate::limits::STEP_BYTES;
use crate::pool::Buffer;
use crate::proto::Errno;
use crate::reply::{Reply, ReplyTo};
use crate::request::{Answer, Command, Room};

/// Data bytes that [`perform`] needs in its buffer.
pub(crate) fn buffer_len(command: &Command) -> usize {
    match *command {
        Command::Read { len, .. } | Command::Write { len, .. } => len as usize,
        Command::Zero {
            len,
            room: Room::Keep,
            ..
        }
        | Command::Cache { len, .. } => STEP_BYTES.min(len as usize),
        Command::Status { runs, .. } => runs.saturating_mul(8),
        Command::Zero { .. } | Command::Flush | Command::Disconnect => 0,
    }
}

/// Carries a command out. A write's data is in `buffer`, and the reply will be.
pub(crate) async fn perform(
    device: Arc<dyn BlockDevice>,
    command: Command,
    to: ReplyTo,
    mut buffer: Buffer,
) -> Reply {
    let device = &*device;
    let done = match command {
        Command::Read { offset, len } => {
            let len = len as usize;
            match read(device, offset, buffer.data_mut(len)).await {
                Ok(()) => return to.data(buffer, offset, len),
                Err(error) => Err(error),
            }
        }
        Command::Status { offset, len, runs } => {
            match device.status(offset, u64::from(len)).await {
                Ok(found) => return to.status(buffer, &found, len, runs),
                Err(error) => Err(error),
            }
        }
        Command::Write {
            offset,
            len,
            answer,
        } => match write(device, offset, buffer.data(len as usize)).await {
            Ok(()) => answer_when(device, answer).await,
            Err(error) => Err(error),
        },
        Command::Zero {
            offset,
            len,
            answer,
            room,
        } => match zero(device, offset, u64::from(len), room, &mut buffer).await {
            Ok(()) => answer_when(device, answer).await,
            Err(error) => Err(error),
        },
        Command::Cache { offset, len } => {
            read_ahead(device, offset, u64::from(len), &mut buffer).await
        }
        Command::Flush => device.flush().await,
        Command::Disconnect => Ok(()),
    };
    match done {
        Ok(()) => to.done(buffer),
        Err(error) => to.error(buffer, errno(&error), &with_causes(&error)),
    }
}

/// The protocol's number for an error of the device.
fn errno(error: &DeviceError) -> Errno {
    match error {
        DeviceError::ReadOnly => Errno::Perm,
        DeviceError::NoSpace(_) => Errno::NoSpc,
        // The one error that QEMU pauses for when it pauses for no other (`rerror=enospc`).
        DeviceError::Late => Errno::NoSpc,
        DeviceError::Below(_) | DeviceError::Io(_) => Errno::Io,
    }
}

/// Flushes if the client wants the change durable.
async fn answer_when(device: &dyn BlockDevice, answer: Answer) -> DeviceResult<()> {
    match answer {
        Answer::Done => Ok(()),
        Answer::Durable => device.flush().await,
    }
}

// Requests of no bytes are answered here: devices need not think about them.

async fn read(device: &dyn BlockDevice, offset: u64, into: &mut [u8]) -> DeviceResult<()> {
    match into.is_empty() {
        true => Ok(()),
        false => device.read(offset, into).await,
    }
}

async fn write(device: &dyn BlockDevice, offset: u64, data: &[u8]) -> DeviceResult<()> {
    match data.is_empty() {
        true => Ok(()),
        false => device.write(offset, data).await,
    }
}

async fn zero(
    device: &dyn BlockDevice,
    offset: u64,
    len: u64,
    room: Room,
    buffer: &mut Buffer,
) -> DeviceResult<()> {
    match room {
        _ if len == 0 => Ok(()),
        Room::GiveBack => device.zero(offset, len).await,
        Room::Keep => {
            let zeros = buffer.data_mut(STEP_BYTES);
            zeros.fill(0);
            for (at, step) in steps(offset, len, zeros.len()) {
                device.write(at, &zeros[..step]).await?;
            }
            Ok(())
        }
    }
}

async fn read_ahead(
    device: &dyn BlockDevice,
    offset: u64,
    len: u64,
    buffer: &mut Buffer,
) -> DeviceResult<()> {
    let scratch = buffer.data_mut(STEP_BYTES);
    for (at, step) in steps(offset, len, scratch.len()) {
        device.read(at, &mut scratch[..step]).await?;
    }
    Ok(())
}

/// Offset and length of each part of a range that is walked in steps of at most `step` bytes.
fn steps(offset: u64, len: u64, step: usize) -> impl Iterator<Item = (u64, usize)> {
    // The range was checked to lie in the disk, so its end is no overflow.
    let end = offset.saturating_add(len);
    let step = step.max(1);
    (offset..end).step_by(step).map(move |at| {
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        (at, left.min(step))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_cover_a_range_exactly() {
        for (offset, len, step) in [(5, 0, 4), (5, 4, 4), (5, 9, 4), (0, 3, 4), (7, 1, 1)] {
            let mut next = offset;
            for (at, bytes) in steps(offset, len, step) {
                assert_eq!(at, next);
                assert!(bytes > 0 && bytes <= step);
                next += bytes as u64;
            }
            assert_eq!(next, offset + len);
        }
    }
}
