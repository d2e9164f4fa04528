// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "control-plane/api/state.h"
#include "control-plane/limits.h"
#include "control-plane/node/node.h"

namespace hearth::control {

// The API half: the public gRPC API on a Unix socket, health and reflection with it.
class ApiServer {
 public:
  // `state` and `node` outlive the server. Whatever a crash cut off is settled before it listens. A
  // socket that an earlier hearthd left at `socket_path` is replaced: that `state` is held says
  // that hearthd is gone.
  static absl::StatusOr<std::unique_ptr<ApiServer>> Start(const std::string& socket_path,
                                                          State* state, Node* node,
                                                          const ServerLimits& limits = {});

  // Stop() without grace, if it was not called.
  ~ApiServer();

  // As ImageService.ReloadImages.
  absl::Status ReloadImages();

  // Refuses new calls, lets those under way end for `grace`, then cancels them, and ends
  // invocations that go on without their client. Deploys are cancelled at once.
  void Stop(absl::Duration grace);

 private:
  class Impl;
  explicit ApiServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace hearth::control
