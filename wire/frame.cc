// SPDX-License-Identifier: Apache-2.0
#include "wire/frame.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "wire/limits.h"

namespace hearth::wire {
namespace {

uint32_t ReadLe32(const std::string& bytes) {
  uint32_t value = 0;
  for (size_t i = 0; i < kFrameHeaderBytes; ++i) {
    value |= static_cast<uint32_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  }
  return value;
}

}  // namespace

absl::Status AppendFrame(absl::string_view payload, size_t max_payload_bytes, std::string* out) {
  if (payload.size() > max_payload_bytes || payload.size() > UINT32_MAX) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a frame of ", payload.size(), " bytes is over the limit of ", max_payload_bytes));
  }
  const auto length = static_cast<uint32_t>(payload.size());
  for (size_t i = 0; i < kFrameHeaderBytes; ++i) {
    out->push_back(static_cast<char>(length >> (8 * i)));
  }
  out->append(payload.data(), payload.size());
  return absl::OkStatus();
}

absl::StatusOr<bool> FrameDecoder::Next(absl::string_view* input) {
  if (failed_) return absl::InvalidArgumentError("the stream lost its framing before");
  if (!in_payload_) {
    const size_t take = std::min(kFrameHeaderBytes - header_.size(), input->size());
    header_.append(input->data(), take);
    input->remove_prefix(take);
    if (header_.size() < kFrameHeaderBytes) return false;
    length_ = ReadLe32(header_);
    if (length_ > max_payload_bytes_) {
      failed_ = true;
      return absl::InvalidArgumentError(absl::StrCat(
          "a frame announces ", length_, " bytes, over the limit of ", max_payload_bytes_));
    }
    in_payload_ = true;
    partial_.clear();
  }
  // A frame that lies whole in the input is not copied.
  if (partial_.empty() && input->size() >= length_) {
    payload_ = input->substr(0, length_);
    input->remove_prefix(length_);
  } else {
    const size_t take = std::min(length_ - partial_.size(), input->size());
    partial_.append(input->data(), take);
    input->remove_prefix(take);
    if (partial_.size() < length_) return false;
    payload_ = partial_;
  }
  in_payload_ = false;
  header_.clear();
  return true;
}

}  // namespace hearth::wire
