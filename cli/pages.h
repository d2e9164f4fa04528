// SPDX-License-Identifier: Apache-2.0
// How lists are fetched and printed.
#pragma once

#include <google/protobuf/repeated_field.h>

#include <algorithm>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/format.h"
#include "cli/json.h"

namespace hearth::cli {

inline constexpr int kPageSize = 100;

// The items of all pages, up to `limit`, of what a List method of `stub` answers. `what` as in
// FromStatus.
template <typename Stub, typename Request, typename Response, typename Item>
std::vector<Item> AllPages(
    Session& session, const std::string& what, int limit, Stub& stub,
    grpc::Status (Stub::*list)(grpc::ClientContext*, const Request&, Response*), Request request,
    const google::protobuf::RepeatedPtrField<Item>& (Response::*items_of)() const) {
  std::vector<Item> items;
  Response response;
  do {
    request.set_page_size(std::min(limit - static_cast<int>(items.size()), kPageSize));
    request.set_page_token(response.next_page_token());
    response.Clear();
    session.client().Call(what, [&](grpc::ClientContext* context) {
      return (stub.*list)(context, request, &response);
    });
    items.insert(items.end(), (response.*items_of)().begin(), (response.*items_of)().end());
  } while (!response.next_page_token().empty() && static_cast<int>(items.size()) < limit);
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
