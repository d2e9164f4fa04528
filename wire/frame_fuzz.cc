// SPDX-License-Identifier: Apache-2.0
// The frame decoder under arbitrary bytes in arbitrary pieces: it must deliver the same frames as
// from one piece, never a payload over the limit, and lose no byte.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "wire/frame.h"

namespace {

constexpr size_t kLimit = 300;

// Decodes `stream` in pieces of `piece` bytes; the payloads one after the other, framed again.
std::string Decode(absl::string_view stream, size_t piece) {
  hearth::wire::FrameDecoder decoder(kLimit);
  std::string frames;
  while (!stream.empty()) {
    absl::string_view input = stream.substr(0, piece);
    stream.remove_prefix(input.size());
    while (true) {
      absl::StatusOr<bool> complete = decoder.Next(&input);
      if (!complete.ok()) return frames;
      if (!*complete) break;
      if (!hearth::wire::AppendFrame(decoder.payload(), kLimit, &frames).ok()) std::abort();
    }
    if (!input.empty()) std::abort();
  }
  return frames;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const absl::string_view stream(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::string whole = Decode(stream, std::max<size_t>(stream.size(), 1));
  if (Decode(stream, data[0] + size_t{1}) != whole) std::abort();
  // What was decoded is the front of what was sent.
  if (stream.substr(0, whole.size()) != whole) std::abort();
  return 0;
}
