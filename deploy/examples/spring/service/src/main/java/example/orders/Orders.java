package example.orders;

import java.security.Principal;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.springframework.http.HttpStatus;
import org.springframework.security.access.prepost.PreAuthorize;
import org.springframework.stereotype.Component;
import org.springframework.web.bind.annotation.DeleteMapping;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.ResponseStatus;
import org.springframework.web.bind.annotation.RestController;

@RestController
public class Orders {
    /** Whose each order is. */
    @Component("owners")
    public static class Owners {
        private final Map<String, String> owners = new ConcurrentHashMap<>(Map.of("1", "alice", "2", "bob"));

        public String of(String order) {
            return owners.getOrDefault(order, "");
        }

        void remove(String order) {
            owners.remove(order);
        }
    }

    private final Owners owners;

    Orders(Owners owners) {
        this.owners = owners;
    }

    @GetMapping("/api/public/catalogue")
    String catalogue() {
        return "books";
    }

    @GetMapping("/api/admin/users")
    String users() {
        return "alice, bob";
    }

    @GetMapping("/api/reports/sales")
    String sales() {
        return "many";
    }

    @GetMapping("/api/orders/{id}")
    String order(@PathVariable String id, Principal caller) {
        return "order " + id + " for " + caller.getName();
    }

    @DeleteMapping("/api/orders/{id}")
    @PreAuthorize("hasRole('ADMIN') or @owners.of(#id) == authentication.name")
    @ResponseStatus(HttpStatus.NO_CONTENT)
    void delete(@PathVariable("id") String id) {
        owners.remove(id);
    }
}
