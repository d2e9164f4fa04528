// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "control-plane/api/state.h"
#include "control-plane/api/worker_pool.h"

namespace hearth::control {

// Collects, in the background, the files of what was deleted. Thread-safe.
class GarbageCollector {
 public:
  // `state` outlives it.
  explicit GarbageCollector(State* state) : state_(state) {}
  // Something that refers to files was deleted, or will not come to be.
  void Wake();

 private:
  State* const state_;
  // One runs and one waits: what was deleted before the latter begins it will see.
  WorkerPool worker_{1, 1};
};

}  // namespace hearth::control
