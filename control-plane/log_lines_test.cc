// SPDX-License-Identifier: Apache-2.0
#include "control-plane/log_lines.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/ostream_sink.h>

#include <catch2/catch.hpp>
#include <sstream>

namespace hearth::control {
namespace {

TEST_CASE("log: what a guest wrote stays in the line that quotes it") {
  std::ostringstream text;
  spdlog::logger log("test", std::make_shared<spdlog::sinks::ostream_sink_st>(text));
  log.set_formatter(MakeLogFormatter());
  log.warn("last words: {}",
           "oh\n2026-01-01T00:00:00.000Z info all is well\r\x1b[2K\x7f caf\u00e9");
  log.flush();
  const std::string line = text.str();
  CHECK(line.find(" warning last words: oh\\n2026-01-01T00:00:00.000Z info all is well\\x0d\\x1b[2K"
                  "\\x7f caf\u00e9\n") == std::string("2026-01-01T00:00:00.000Z").size());
  CHECK(line.find('\n') == line.size() - 1);
}

}  // namespace
}  // namespace hearth::control
