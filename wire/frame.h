// SPDX-License-Identifier: Apache-2.0
// The framing under every protocol of Hearth's own: a little-endian u32 payload length, then the
// payload. What the payload means is the caller's business.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hearth::wire {

// Appends one frame to `out`. INVALID_ARGUMENT, with `out` unchanged, when `payload` is longer than
// `max_payload_bytes`.
absl::Status AppendFrame(absl::string_view payload, size_t max_payload_bytes, std::string* out);

// Cuts a byte stream into frames, however the bytes arrive. It never holds more than one payload
// of at most the limit: a length over it is refused before anything is allocated, and memory grows
// with the bytes that came, not with the length that was announced. Not thread safe.
class FrameDecoder {
 public:
  explicit FrameDecoder(size_t max_payload_bytes) : max_payload_bytes_(max_payload_bytes) {}

  // Takes bytes from the front of `*input`. True: one frame is complete, payload() is it, call
  // again for the next. False: all of the input was taken and the frame is not complete yet.
  // INVALID_ARGUMENT: the length is over the limit; the stream is lost and every later call fails.
  //
  //   while (true) {
  //     ASSIGN_OR_RETURN(bool complete, decoder.Next(&input));
  //     if (!complete) break;
  //     Handle(decoder.payload());
  //   }
  absl::StatusOr<bool> Next(absl::string_view* input);

  // Valid until the next call of Next(), and no longer than the input of the last one.
  absl::string_view payload() const { return payload_; }

  // True when the stream may end here: no frame is half received.
  bool at_boundary() const { return header_.empty() && !in_payload_; }

 private:
  const size_t max_payload_bytes_;
  std::string header_;  // At most kFrameHeaderBytes.
  bool in_payload_ = false;
  bool failed_ = false;
  size_t length_ = 0;    // Of the frame being received, valid when in_payload_.
  std::string partial_;  // A payload that came in pieces.
  absl::string_view payload_;
};

}  // namespace hearth::wire
