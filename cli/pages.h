// SPDX-License-Identifier: Apache-2.0
// How lists are fetched and printed.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/format.h"
#include "cli/json.h"

namespace hearth::cli {

inline constexpr int kPageSize = 100;

// All pages up to `limit` items. `call(page_size, token, out)` fetches one, adds its items to `out`
// and returns the next token.
template <typename Item, typename CallPage>
std::vector<Item> AllPages(int limit, const CallPage& call) {
  std::vector<Item> items;
  std::string token;
  do {
    const int left = limit - static_cast<int>(items.size());
    token = call(std::min(left, kPageSize), token, &items);
  } while (!token.empty() && static_cast<int>(items.size()) < limit);
  if (static_cast<int>(items.size()) > limit) items.resize(static_cast<size_t>(limit));
  return items;
}

template <typename Item>
void PrintJson(const Session& session, const std::string& key, const std::vector<Item>& items) {
  nlohmann::json list = nlohmann::json::array();
  for (const Item& item : items) list.push_back(ToJson(item));
  session.terminal.out << JsonText({{key, list}});
}

inline void PrintTable(const Session& session, const Table& table, const std::string& nothing) {
  if (table.empty()) {
    if (!session.options.quiet) session.terminal.err << nothing << "\n";
  } else {
    session.terminal.out << table.Render();
  }
}

}  // namespace hearth::cli
