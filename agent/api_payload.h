// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "agent/pumps.h"

namespace hearth::agent {

// The payload is held here so that a runtime which asks again gets it again.
inline constexpr size_t kMaxRequestBytes = 6 * 1024 * 1024 + 64 * 1024;
// Up to here a payload is collected as strings grow.
inline constexpr size_t kSmallRequestBytes = 64 * 1024;

// Collects the payload of an invocation, at most kMaxRequestBytes.
class RequestPayload : public StreamHandler {
 public:
  // `arrived` is called once, from the connection.
  RequestPayload(wire::Mux* mux, StreamHandlers* handlers, uint32_t stream_id,
                 std::function<void(bool aborted)> arrived)
      : mux_(mux), handlers_(handlers), stream_id_(stream_id), arrived_(std::move(arrived)) {
    (*handlers_)[stream_id_] = this;
  }
  ~RequestPayload() override { handlers_->erase(stream_id_); }

  void OnData(absl::string_view data) override {
    if (bytes_.size() + data.size() > kMaxRequestBytes) {
      mux_->AbortStream(stream_id_, "the payload is over the limit");
      return arrived_(true);
    }
    // Growing would touch as many pages again; those that are reserved and not used cost nothing.
    if (bytes_.size() + data.size() > kSmallRequestBytes) bytes_.reserve(kMaxRequestBytes);
    bytes_.append(data.data(), data.size());
    mux_->Consume(stream_id_, data.size());
  }
  void OnEnd(bool aborted, absl::string_view) override { arrived_(aborted); }

  std::shared_ptr<const std::string> Take() {
    return std::make_shared<const std::string>(std::move(bytes_));
  }

 private:
  wire::Mux* const mux_;
  StreamHandlers* const handlers_;
  const uint32_t stream_id_;
  std::function<void(bool aborted)> arrived_;
  std::string bytes_;
};

}  // namespace hearth::agent
