//! Lines of bounded length.

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// What was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line, without its newline.
    Whole(Vec<u8>),
    /// A line that was longer than allowed. It was passed over.
    TooLong,
    /// Nothing more comes. What stood after the last newline is no line.
    End,
}

/// Reads the next line. Keeps at most `bytes_max` bytes of it. Not cancellation safe.
pub(super) async fn next(reader: &mut (impl AsyncBufRead + Unpin), bytes_max: usize) -> Line {
    let mut line = Vec::new();
    let mut too_long = false;
    loop {
        let Ok(available) = reader.fill_buf().await else { return Line::End };
        if available.is_empty() {
            return Line::End;
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let part = available.get(..end.unwrap_or(available.len())).unwrap_or_default();
        too_long = too_long || line.len() + part.len() > bytes_max;
        if too_long {
            line = Vec::new();
        } else {
            line.extend_from_slice(part);
        }
        let taken = end.map_or(part.len(), |end| end + 1);
        reader.consume(taken);
        if end.is_some() {
            return if too_long { Line::TooLong } else { Line::Whole(line) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whatever_the_buffer_is_the_lines_are_the_same() {
        let text = b"one\n\n123456\n1234567\nlast\nhalf";
        for capacity in 1..40 {
            let mut reader = tokio::io::BufReader::with_capacity(capacity, &text[..]);
            let mut lines = Vec::new();
            loop {
                match next(&mut reader, 6).await {
                    Line::End => break,
                    line => lines.push(line),
                }
            }
            let whole = |text: &str| Line::Whole(text.as_bytes().to_vec());
            let expected = [whole("one"), whole(""), whole("123456"), Line::TooLong, whole("last")];
            assert_eq!(lines, expected, "{capacity}");
        }
    }
}
