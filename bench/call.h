// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

namespace hearth::bench {

// What is invoked.
struct Call {
  std::string function;  // tenants/{tenant}/functions/{function}
  std::string payload = "{}";
  std::string content_type = "application/json";
};

}  // namespace hearth::bench
