// SPDX-License-Identifier: Apache-2.0
#include "examples/hash/http_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <stdexcept>
#include <system_error>

namespace {

constexpr size_t kMaxLineBytes = 64 << 10;
constexpr size_t kMaxBodyBytes = 64 << 20;

[[noreturn]] void ThrowErrno(const std::string& what) {
  throw std::runtime_error(what + ": " + std::generic_category().message(errno));
}

template <typename Number>
Number ParseNumber(std::string_view text, const char* what) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw std::runtime_error("the Runtime API sent a bad " + std::string(what) + ": " +
                             std::string(text));
  }
  return number;
}

std::string_view Trim(std::string_view text) {
  const auto begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

}  // namespace

void HttpClient::Connect() {
  const auto colon = address_.rfind(':');
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  std::string host = address_.substr(0, colon);
  if (host == "localhost") host = "127.0.0.1";
  if (colon == std::string::npos || inet_pton(AF_INET, host.c_str(), &peer.sin_addr) != 1) {
    throw std::runtime_error("not an address of the Runtime API: \"" + address_ + "\"");
  }
  const auto port = std::string_view(address_).substr(colon + 1);
  peer.sin_port = htons(ParseNumber<uint16_t>(port, "port"));
  socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (socket_ < 0) ThrowErrno("socket");
  if (connect(socket_, reinterpret_cast<const sockaddr*>(&peer), sizeof peer) != 0) {
    ThrowErrno("connecting to the Runtime API at " + address_);
  }
  // A body is sent behind its head: it must not wait until that is acknowledged, which takes 40 ms.
  const int on = 1;
  setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

void HttpClient::Close() {
  if (socket_ >= 0) close(socket_);
  socket_ = -1;
  received_.clear();
}

void HttpClient::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) ThrowErrno("sending to the Runtime API");
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
}

void HttpClient::Receive() {
  char buffer[64 << 10];
  ssize_t count;
  do {
    count = recv(socket_, buffer, sizeof buffer, 0);
  } while (count < 0 && errno == EINTR);
  if (count < 0) ThrowErrno("receiving from the Runtime API");
  if (count == 0) throw std::runtime_error("the Runtime API closed the connection");
  received_.append(buffer, static_cast<size_t>(count));
}

std::string HttpClient::TakeLine() {
  size_t end;
  while ((end = received_.find("\r\n")) == std::string::npos) {
    if (received_.size() > kMaxLineBytes) throw std::runtime_error("an endless header line came");
    Receive();
  }
  std::string line = received_.substr(0, end);
  received_.erase(0, end + 2);
  return line;
}

HttpResponse HttpClient::Exchange(std::string_view method, std::string_view path,
                                  std::string_view content_type, std::string_view body) {
  if (socket_ < 0) Connect();
  std::string head = std::string(method) + " " + std::string(path) +
                     " HTTP/1.1\r\nHost: " + address_ +
                     "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n";
  if (!content_type.empty()) head += "Content-Type: " + std::string(content_type) + "\r\n";
  // At once: of two pieces the second would wait until the first is acknowledged (Nagle's
  // algorithm), which the peer puts off for 40 ms.
  Send((head + "\r\n").append(body));

  HttpResponse response;
  const std::string status_line = TakeLine();  // HTTP/1.1 200 OK
  if (status_line.size() < 12 || !status_line.starts_with("HTTP/1.")) {
    throw std::runtime_error("the Runtime API does not speak HTTP/1.1: " + status_line);
  }
  response.status = ParseNumber<int>(std::string_view(status_line).substr(9, 3), "status");
  for (std::string line = TakeLine(); !line.empty(); line = TakeLine()) {
    const auto colon = line.find(':');
    if (colon == std::string::npos) throw std::runtime_error("a bad header came: " + line);
    std::string name = line.substr(0, colon);
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    response.headers[name] = Trim(std::string_view(line).substr(colon + 1));
  }
  if (response.headers.count("transfer-encoding") != 0) {
    throw std::runtime_error("the Runtime API sent a chunked body, which this client cannot read");
  }
  const auto length = response.headers.find("content-length");
  const size_t bytes =
      length == response.headers.end() ? 0 : ParseNumber<size_t>(length->second, "Content-Length");
  if (bytes > kMaxBodyBytes) throw std::runtime_error("a body of " + length->second + " bytes");
  while (received_.size() < bytes) Receive();
  response.body = received_.substr(0, bytes);
  received_.erase(0, bytes);
  if (response.headers["connection"] == "close") Close();
  return response;
}
