//! Compresses frames.

use std::io;

use crossbeam_channel::{Receiver, Sender};
use shale_model::{Codec, FrameEncoder};

use super::frame::{Frame, Message, Packed};
use crate::error::PushError;

/// Runs until `frames` ends; several may run at once. The writer is told what fails.
pub(crate) fn compress(frames: Receiver<Frame>, packed: Sender<Message>) {
    // Only a writer that failed does not listen, and it has an error of its own.
    let tell = |message| packed.send(message).is_ok();
    let mut encoder = match FrameEncoder::new() {
        Ok(encoder) => encoder,
        Err(error) => {
            tell(Message::Failed(PushError::Compress(error)));
            return;
        }
    };
    let mut space = Vec::new();
    for frame in frames {
        let message = match pack(&frame, &mut encoder, &mut space) {
            Ok(packed) => Message::Packed(packed, frame.ticket),
            Err(error) => Message::Failed(PushError::Compress(error)),
        };
        if !tell(message) {
            return;
        }
    }
}

fn pack(frame: &Frame, encoder: &mut FrameEncoder, space: &mut Vec<u8>) -> io::Result<Packed> {
    let stored = frame
        .plain
        .with(space, |plain| match encoder.compress(plain) {
            // The encoder's buffer has room for the worst case; frames wait in their real size.
            Ok(Some(mut stored)) => {
                stored.shrink_to_fit();
                Ok((Codec::Zstd, stored))
            }
            Ok(None) => Ok((Codec::Plain, plain.to_vec())),
            Err(error) => Err(error),
        });
    let (codec, stored) = stored?;
    Ok(Packed {
        kind: frame.kind,
        number: frame.number,
        codec,
        stored,
        chunks: frame.chunks.clone(),
    })
}
