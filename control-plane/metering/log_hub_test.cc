// SPDX-License-Identifier: Apache-2.0
#include "control-plane/metering/log_hub.h"

#include <catch2/catch.hpp>
#include <thread>

#include "control-plane/limits.h"
#include "control-plane/store/uuid.h"

namespace hearth::control {
namespace {

constexpr char kFunction[] = "tenants/t/functions/f";
constexpr char kVersion[] = "tenants/t/functions/f/versions/1";

hearth::v1::LogEntry Line(const std::string& text, const std::string& invocation = "") {
  hearth::v1::LogEntry entry;
  entry.set_text(text);
  entry.set_invocation(invocation);
  return entry;
}

std::string Drain(LogHub::Reader& reader) {
  std::string all;
  while (true) {
    const auto lines = reader.Next(Cancellation());
    if (lines.empty()) return all;
    for (const auto& line : lines) all += line.text();
  }
}

}  // namespace

TEST_CASE(
    "logs: old lines come in order, all, the last few, one invocation's, or behind a cursor") {
  LogHub hub(UuidGenerator().Next());
  for (const char* text : {"a", "b", "c", "d"}) {
    hub.OnLog(kVersion, Line(text, *text == 'b' || *text == 'c' ? "i" : ""));
  }
  CHECK(Drain(**hub.Read(kFunction, {})) == "abcd");
  CHECK(Drain(**hub.Read(kFunction, {false, "", 2, ""})) == "cd");
  CHECK(Drain(**hub.Read(kFunction, {false, "i", 0, ""})) == "bc");
  CHECK(Drain(**hub.Read(kFunction, {false, "i", 1, ""})) == "c");
  auto reader = *hub.Read(kFunction, {});
  const auto lines = reader->Next(Cancellation());
  CHECK(Drain(**hub.Read(kFunction, {false, "", 0, lines[1].cursor()})) == "cd");
  CHECK(Drain(**hub.Read(kFunction, {false, "", 0, UuidGenerator().Next() + ".2"})) == "abcd");
  CHECK(absl::IsInvalidArgument(hub.Read(kFunction, {false, "", 0, "nonsense"}).status()));
  CHECK(Drain(**hub.Read("tenants/t/functions/other", {})).empty());
}

TEST_CASE("logs: a follower gets new lines, and ends when cancelled, forgotten or closed") {
  LogHub hub(UuidGenerator().Next());
  auto reader = *hub.Read(kFunction, {true, "", 0, ""});
  Cancellation cancellation;
  std::thread writer([&] { hub.OnLog(kVersion, Line("new")); });
  const auto lines = reader->Next(cancellation);
  writer.join();
  REQUIRE(lines.size() == 1);
  CHECK(lines[0].text() == "new");
  std::thread canceller([&] { cancellation.Cancel(); });
  CHECK(reader->Next(cancellation).empty());
  canceller.join();

  auto second = *hub.Read(kFunction, {true, "none", 0, ""});
  std::thread forgetter([&] { hub.Forget(kFunction, kVersion); });
  CHECK(second->Next(Cancellation()).empty());
  forgetter.join();

  auto third = *hub.Read(kFunction, {true, "", 0, ""});
  std::thread closer([&] { hub.Close(); });
  CHECK(third->Next(Cancellation()).empty());
  closer.join();
}

TEST_CASE("logs: what the invocations of a deleted function still say is not kept") {
  LogHub hub(UuidGenerator().Next());
  hub.OnLog("tenants/t/functions/f/versions/9", Line("old"));
  hub.Forget(kFunction, "tenants/t/functions/f/versions/9");
  hub.OnLog("tenants/t/functions/f/versions/9", Line("late"));
  CHECK(Drain(**hub.Read(kFunction, {})).empty());
  // Made again, it goes on counting.
  hub.OnLog("tenants/t/functions/f/versions/10", Line("new"));
  hub.OnLog("tenants/t/functions/f/versions/8", Line("later"));
  CHECK(Drain(**hub.Read(kFunction, {})) == "new");
}

TEST_CASE("logs: a short line counts with the names that it carries") {
  LogHub hub(UuidGenerator().Next());
  const std::string invocation(200, 'i');
  const size_t count = limits::kMaxFunctionLogBytes / limits::kLogEntryOverheadBytes;
  for (size_t i = 0; i < count; ++i) hub.OnLog(kVersion, Line("x", invocation));
  CHECK(Drain(**hub.Read(kFunction, {})).size() ==
        limits::kMaxFunctionLogBytes / (limits::kLogEntryOverheadBytes + 201));
}

TEST_CASE("logs: memory is bounded and a slow reader learns how many lines it missed") {
  LogHub hub(UuidGenerator().Next());
  auto reader = *hub.Read(kFunction, {true, "", 0, ""});
  const std::string text(limits::kMaxLogLineBytes, 'x');
  const size_t kept =
      limits::kMaxFunctionLogBytes / (limits::kMaxLogLineBytes + limits::kLogEntryOverheadBytes);
  for (size_t i = 0; i < kept + 100; ++i) hub.OnLog(kVersion, Line(text));
  const auto lines = reader->Next(Cancellation());
  REQUIRE_FALSE(lines.empty());
  CHECK(lines[0].dropped() == 100);
  hub.OnLog(kVersion, Line(std::string(limits::kMaxLogLineBytes + 1, 'y')));
  auto last = *hub.Read(kFunction, {false, "", 1, ""});
  CHECK(last->Next(Cancellation())[0].truncated());

  // Other functions push the one that wrote longest ago out.
  for (size_t f = 0; f < limits::kMaxLogBytes / limits::kMaxFunctionLogBytes + 2; ++f) {
    const std::string version = "tenants/t/functions/g" + std::to_string(f) + "/versions/1";
    for (size_t i = 0; i < kept; ++i) hub.OnLog(version, Line(text));
  }
  CHECK(Drain(**hub.Read(kFunction, {})).empty());
}

TEST_CASE("logs: writers and followers on many threads lose nothing unsaid") {
  LogHub hub(UuidGenerator().Next());
  constexpr int kLines = 2000;
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int f = 0; f < 3; ++f) {
    threads.emplace_back(
        [&, reader = std::shared_ptr<LogHub::Reader>(*hub.Read(kFunction, {true, "", 0, ""}))] {
          int64_t seen = 0;
          while (seen < 2 * kLines) {
            for (const auto& line : reader->Next(Cancellation())) seen += 1 + line.dropped();
          }
          if (seen != 2 * kLines) ++wrong;
        });
  }
  for (int w = 0; w < 2; ++w) {
    threads.emplace_back([&] {
      for (int i = 0; i < kLines; ++i) hub.OnLog(kVersion, Line("x"));
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(wrong == 0);
}

}  // namespace hearth::control
